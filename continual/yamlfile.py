"""YAML files whose mistakes are told with file and line, all at once.

``load`` reads a file and remembers where each key stands; ``validate`` checks its data against a
pydantic model and turns every mistake into ``file:line: dotted.key: message; did you mean 'x'?``.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from continual.errors import ContinualError
from continual.problems import Key, Problem, dotted, problems_of

LAST = (2**31, 0)
"""Where mistakes stand that are in no file: after all others."""

M = TypeVar("M", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads ``1e-4`` as a number, as YAML 1.2 does; YAML 1.1 makes it a string."""


class _FastLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The same in C, ten times as fast, where PyYAML was built with it."""


for _loader in (_Loader, _FastLoader):
    _loader.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )


@dataclass(frozen=True)
class Document:
    """A YAML file: its data, and the line of each key in it."""

    path: Path
    data: Any
    root: yaml.Node | None

    @property
    def shown(self) -> str:
        """The path as errors show it."""
        return _shown(self.path)

    def place(self, *keys: Key) -> tuple[int, int]:
        """Line and column of a nested key, counted from 1; of the deepest key that exists if it does not."""
        node, place = self.root, (1, 1)
        for key in keys:
            found = _child(node, key)
            if found is None:
                break
            node, mark = found
            place = (mark.line + 1, mark.column + 1)
        return place

    def has(self, *keys: Key) -> bool:
        """True if the file itself has this nested key."""
        node = self.root
        for key in keys:
            found = _child(node, key)
            if found is None:
                return False
            node, _ = found
        return True

    def line(self, *keys: Key) -> int:
        """The line of a nested key; see `place`."""
        return self.place(*keys)[0]

    def at(self, *keys: Key) -> str:
        """``file:line`` of a nested key."""
        return f"{self.shown}:{self.line(*keys)}"


def load(path: Path) -> Document:
    """Read a YAML file.

    Raises:
        ContinualError: the file is missing, is not UTF-8, is not valid YAML, or gives a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ContinualError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ContinualError(f"{path}: is a folder, not a YAML file") from None
    except UnicodeDecodeError as error:
        raise ContinualError(f"{path}: is not UTF-8 text: {error.reason}") from None
    return parse(text, path)


def parse(text: str, path: Path) -> Document:
    """Read the text of a YAML file, written or yet to be written.

    Raises:
        ContinualError: it is not valid YAML, or gives a key twice.
    """
    document = Document(path, *_parse(text, path))
    twice = [
        f"{document.shown}:{line}: {dotted(keys)}: this key is given twice (first in line {first})"
        for keys, line, first in _duplicates(document.root)
    ]
    if twice:
        raise ContinualError(*twice)
    return document


def parse_value(text: str) -> Any:
    """The value of ``key=text`` on the command line, read as YAML.

    Raises:
        yaml.YAMLError: the text is not valid YAML.
    """
    return yaml.load(text, _Loader)


def validate(
    cls: type[M],
    document: Document,
    data: Mapping[str, Any] | None = None,
    *,
    context: Mapping[str, Any] | None = None,
    overridden: Collection[str] = (),
) -> M:
    """Check a document against a model.

    Args:
        cls: the pydantic model.
        document: gives the lines, and the data where `data` is not given.
        data: what to check instead of the document's own data, e.g. with overrides applied.
        context: handed to the model's validators.
        overridden: dotted keys that come from the command line; mistakes below them are shown as
            ``override: key: message``.

    Raises:
        ContinualError: with one line per mistake, in the order of the file.
    """
    checked = document.data if data is None else data
    if not isinstance(checked, Mapping):
        kind = "empty" if checked is None else f"a {type(checked).__name__}"
        raise ContinualError(f"{document.shown}:1: the file is {kind}; it should be keys and values")
    try:
        return cls.model_validate(checked, context=dict(context or {}))
    except ValidationError as error:
        raise ContinualError(*told(document, problems_of(error, cls, checked), overridden)) from None


def told(document: Document, problems: Sequence[Problem], overridden: Collection[str] = ()) -> list[str]:
    """The problems as lines, those of the file first and in its order."""
    lines: list[tuple[tuple[int, int], str]] = []
    for problem in problems:
        key = dotted(problem.keys)
        what = f"{key}: {problem.message}" if key else problem.message
        made = any(one.startswith(f"{key}.") for one in overridden) and not document.has(*problem.keys)
        if made or any(key == one or key.startswith(f"{one}.") for one in overridden):
            lines.append((LAST, f"override: {what}"))
        else:
            lines.append((document.place(*problem.keys), f"{document.at(*problem.keys)}: {what}"))
    return [text for _, text in sorted(lines, key=lambda entry: entry[0])]


def _parse(text: str, path: Path) -> tuple[Any, yaml.Node | None]:
    try:
        loader = _FastLoader(text)
        try:
            root = loader.get_single_node()
            if not _asks(root):
                return (None if root is None else loader.construct_document(root)), root
        finally:
            loader.dispose()
    except yaml.YAMLError:
        pass  # the slow one says what is wrong, in the words that our tests and hints know
    try:
        return yaml.load(text, _Loader), yaml.compose(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        written = [*text.splitlines(), ""][line - 1]
        hint = " (a text with a question mark needs quotes)" if "?" in written else ""
        wrong = error.problem or error.context
        raise ContinualError(f"{_shown(path)}:{line}: not valid YAML: {wrong}{hint}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ContinualError(f"{_shown(path)}:{line}: not valid YAML: {error.reason}") from None


def _asks(node: yaml.Node | None) -> bool:
    """Whether a text without quotes has a question mark: C takes it inside braces, where Python refuses it."""
    if isinstance(node, yaml.ScalarNode):
        return not node.style and "?" in node.value
    if isinstance(node, yaml.MappingNode):
        return any(_asks(part) for pair in node.value for part in pair)
    return isinstance(node, yaml.SequenceNode) and any(map(_asks, node.value))


def _shown(path: Path) -> str:
    """The path from the working directory where the file lies below it."""
    absolute = path.absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(path)


def _child(node: yaml.Node | None, key: Key) -> tuple[yaml.Node, yaml.Mark] | None:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if isinstance(name, yaml.ScalarNode) and name.value == str(key):
                return value, name.start_mark
    if isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
        return node.value[key], node.value[key].start_mark
    return None


def _duplicates(node: yaml.Node | None, above: tuple[Key, ...] = ()) -> Iterator[tuple[tuple[Key, ...], int, int]]:
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for name, value in node.value:
            if not isinstance(name, yaml.ScalarNode):
                continue
            line = name.start_mark.line + 1
            if name.value in seen and name.value != "<<":
                yield (*above, name.value), line, seen[name.value]
            seen.setdefault(name.value, line)
            yield from _duplicates(value, (*above, name.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _duplicates(value, (*above, index))
