"""Templates that turn a row into text: Jinja in a sandbox, strict about names, the same on every run."""

import ast
import json
import math
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from continual.problems import Key, did_you_mean

Row = Mapping[str, Any]


class WordingError(ValueError):
    """A template that does not fit its rows. Who knows the file turns it into a `ContinualError`."""

    def __init__(self, message: str, *keys: Key) -> None:
        super().__init__(message)
        self.keys = keys
        """Where in the task file the template stands."""


def is_null(value: Any) -> bool:
    """Return whether a cell holds nothing: null, or JSON's NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


class NullError(ValueError):
    """A null that a template would write as the word ``None`` or ``nan``."""


def _present(value: Any) -> Any:
    if is_null(value) or (isinstance(value, list | tuple) and any(map(is_null, value))):
        raise NullError
    return value


_TEXT_FILTERS = frozenset(
    "capitalize center e escape forceescape format indent join lower regex_replace replace safe string "
    "striptags title trim truncate upper urlencode wordcount wordwrap".split()
)
"""Filters that make the word ``None`` of a null before the template writes it."""


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox of wordings, which checks for nulls what `~` and filters make text of."""

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        for joined in source.find_all(nodes.Concat):
            joined.nodes = [_checked(part) for part in joined.nodes]
        for used in source.find_all(nodes.Filter):
            if used.name in _TEXT_FILTERS and used.node is not None:
                used.node = _checked(used.node)
        return super()._generate(source, *args, **kwargs)


def _checked(node: nodes.Expr) -> nodes.Expr:
    place = {"lineno": node.lineno, "environment": node.environment}
    return nodes.Filter(node, "present", [], [], None, None, **place)


def _environment() -> _Environment:
    environment = _Environment(undefined=StrictUndefined, keep_trailing_newline=True, finalize=_present)
    # These two draw from the global random state: the same row would give another prompt each run.
    del environment.filters["random"]
    del environment.globals["lipsum"]
    # lm-evaluation-harness has this filter too.
    environment.filters["regex_replace"] = lambda text, pattern, to, count=0: re.sub(pattern, to, text, count=count)
    environment.filters["present"] = _present
    return environment


_ENVIRONMENT = _environment()


@cache
def _check(source: str) -> None:
    """Raise TemplateSyntaxError for a mistake. That is half of compiling; the rest waits for a row."""
    _ENVIRONMENT.compile(source, raw=True)


_compiled = cache(_ENVIRONMENT.from_string)

_SPACED_NAME = re.compile(r"\{\{-?\s*([^\W\d]\w*(?:[ -]+\w+)+)\s*(?:\||-?\}\})")
"""An expression that is only words with spaces or hyphens between them: a column's name."""


class Wording:
    """One template, compiled once.

    As in lm-evaluation-harness, a text that is the name of a column stands for that column.
    """

    def __init__(self, source: str, *keys: Key) -> None:
        self.source = source
        self.keys = keys
        self._is_template = "{{" in source or "{%" in source
        if self._is_template:
            try:
                _check(source)
            except TemplateSyntaxError as error:
                where = f" in line {error.lineno} of the template" if "\n" in source else ""
                spaced = _SPACED_NAME.search(source)
                hint = f"; {_in_brackets(spaced[1])}" if spaced else ""
                raise self.error(f"{error.message}{where}{hint}") from None

    def value(self, row: Row) -> Any:
        """The column itself where the source is its name, else the rendered text.

        Raises:
            WordingError: a name that the row does not have, an empty column, or a template that the sandbox
                refuses or that fails on this row.
        """
        if self.source in row:
            if is_null(row[self.source]):
                raise self.error(f"the column '{self.source}' is empty")
            return row[self.source]
        if not self._is_template:
            raise self.error(f"there is no column '{self.source}'{_columns(self.source, row)}")
        try:
            # A column of that name wins.
            return _compiled(self.source).render({"row": row, **row})
        except NullError:
            raise self.error(f"would write a null as text{self._nulls(row)}") from None
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            missing = re.search(r"'([^']+)' is undefined|has no attribute '([^']+)'", str(error))
            hint = _columns(missing[1] or missing[2], row) if missing else ""
            raise self.error(f"{error}{hint}") from None

    def _nulls(self, row: Row) -> str:
        names = [
            name for name, value in row.items() if is_null(value) and re.search(rf"\b{re.escape(name)}\b", self.source)
        ]
        if not names:
            return ""
        empty = f": the column{'s' * (len(names) > 1)} {', '.join(map(repr, names))} "
        return f"{empty}{'are' if len(names) > 1 else 'is'} empty; such rows can be left out by metadata.where"

    @property
    def fixed(self) -> tuple[str, str]:
        """What the template says of every row, before and behind all that changes."""
        if not self._is_template:
            return "", ""
        pieces = [(kind, text) for _, kind, text in _ENVIRONMENT.lex(self.source)]
        before, after = ("" if kind != "data" else text for kind, text in (pieces[0], pieces[-1]))
        return before.lstrip(), after.rstrip()

    def error(self, message: str) -> WordingError:
        """A mistake of this template."""
        return WordingError(message, *self.keys)

    def text(self, row: Row) -> str:
        """The value as text."""
        return str(self.value(row))

    def texts(self, row: Row) -> tuple[str, ...]:
        """The value as a list of texts: a list column, or a template that renders one, e.g. ``['a', 'b']``.

        Raises:
            WordingError: as `value`, or the value is not a list of texts.
        """
        value = self.value(row)
        if isinstance(value, str):
            try:
                value = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                raise self.error(f"should give a list of texts, gives {value!r}") from None
        if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
            raise self.error(f"should give a list of texts, gives {value!r}")
        return tuple(value)


def _columns(name: str, row: Row) -> str:
    # What Jinja takes for the first word of a name, or for "a minus b", may be a column's name.
    spaced = [c for c in row if not c.isidentifier() and re.split(r"\W", c)[0] == name]
    near = f"; {_in_brackets(spaced[0])}" if spaced else did_you_mean(name, row)
    return f"; the columns are: {', '.join(row)}{near}"


def _in_brackets(column: str) -> str:
    return f"a column whose name is not one word is written {{{{ row[{json.dumps(column, ensure_ascii=False)}] }}}}"
