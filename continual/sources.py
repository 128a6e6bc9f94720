"""Where the rows of a task come from: the Hub, a folder, files, or a Python generator beside the file."""

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from continual.errors import ContinualError
from continual.problems import did_you_mean
from continual.rowfiles import (
    LARGE,
    READ_OFF,
    SUFFIXES,
    ArrowRows,
    LargeRows,
    Reading,
    Row,
    checked,
    open_rows,
    read_file,
    size_of,
)

DATA_ROOT = "CONTINUAL_DATA"
"""The environment variable that names the folder of local copies, where ``--data-root`` is not given."""

BUILDERS = ("json", "csv", "parquet")


class NoSplitError(ContinualError):
    """The data are there, but have no split of that name."""


def mirror_file(data_root: Path | None, path: str, split: str) -> Path | None:
    """The expected local copy of a split, ``<root>/<path>.<split>.jsonl.gz``; None where no root is given."""
    root = data_root or (Path(os.environ[DATA_ROOT]) if os.environ.get(DATA_ROOT) else None)
    return root / f"{path}.{split}.jsonl.gz" if root else None


@dataclass(frozen=True)
class Source:
    """The data set that a task file names."""

    home: Path
    """The folder of the task file; relative paths start there."""
    path: str
    """``dataset_path``: json, csv, parquet, python, a folder, or a name on the Hub."""
    name: str | None
    """``dataset_name``, the configuration of a data set on the Hub."""
    kwargs: Mapping[str, Any]
    """``dataset_kwargs``."""

    @property
    def remote(self) -> bool:
        """Whether the data set is on the Hub."""
        return self.path not in (*BUILDERS, "python") and not self._is_folder

    @property
    def _is_folder(self) -> bool:
        """Whether ``dataset_path`` means a folder; a name on the Hub has no leading dot or slash."""
        return self.path.startswith((".", "/", "~")) or (self.home / self.path).is_dir()

    def files(self, split: str) -> list[Path]:
        """Return the files of a split; none where the data are not in files of a known format.

        Raises:
            ContinualError: no files are named.
            NoSplitError: files of other splits only.
        """
        if self.path in BUILDERS:
            return _named_files(self.home, self.kwargs, split)
        if self._is_folder:
            return _files_in((self.home / self.path).expanduser(), split)
        return []

    def has_files(self, split: str) -> bool:
        """Return whether a split is in files of a known format."""
        try:
            return bool(self.files(split))
        except ContinualError:
            return False

    def rows(self, split: str, on_disk: bool = False) -> list[Row] | LargeRows:
        """Read one split.

        Args:
            on_disk: leave the rows of files where they are until they are wanted.

        Raises:
            ContinualError: the data are not there or cannot be read. Says what was looked for, not the task.
        """
        if self.path == "python":
            return _from_python(self.home, self.kwargs, split)
        files = self.files(split)
        if files:
            reading = _reading(self.kwargs) if self.path in BUILDERS else READ_OFF
            if on_disk:
                return open_rows(files, reading)
            return [row for file in files for row in read_file(file, reading)]
        folder = (self.home / self.path).expanduser()
        path = str(folder) if self._is_folder else self.path
        return _from_hub(path, self.name, self.kwargs, split)

    def first_rows(self, split: str, count: int) -> list[Row]:
        """Read the first rows of a split, of large files without reading the rest.

        Raises:
            ContinualError: as `rows`.
        """
        rows = self.rows(split, on_disk=sum(map(size_of, self.files(split))) > LARGE)
        return rows[:count] if isinstance(rows, list) else rows.head(count)


def _reading(kwargs: Mapping[str, Any]) -> Reading:
    given = {key: kwargs.get(key) for key in ("delimiter", "encoding")}
    delimiter = given["delimiter"]
    for key, value in given.items():
        if value is not None and not isinstance(value, str):
            raise ContinualError(f"dataset_kwargs.{key}: should be a text, is {value!r}")
    if delimiter is not None and len(delimiter) != 1:
        raise ContinualError(f"dataset_kwargs.delimiter: should be one character, is {delimiter!r}")
    return Reading(**given)


def _named_files(home: Path, kwargs: Mapping[str, Any], split: str) -> list[Path]:
    files = _only(kwargs, "data_files", "delimiter", "encoding").get("data_files")
    if files is None:
        raise ContinualError("dataset_kwargs.data_files: names no file, e.g. {train: train.jsonl, test: test.jsonl}")
    by_split = files if isinstance(files, dict) else {"train": files}
    if split not in by_split:
        # A test part under a name that we do not know must not pass for none.
        kind = NoSplitError if len(by_split) == 1 else ContinualError
        raise kind(
            f"dataset_kwargs.data_files: has no split '{split}'; "
            f"the splits are: {', '.join(by_split)}{did_you_mean(split, by_split)}"
        )
    named = by_split[split]
    return [home / one for one in ([named] if isinstance(named, str) else named)]


def _files_in(folder: Path, split: str) -> list[Path]:
    """The file of a split; none where the folder has no such files, and `load_dataset` may know better."""
    if not folder.is_dir():
        raise ContinualError(f"{folder}: no such folder")
    names = [f"{suffix}{packed}" for suffix in SUFFIXES for packed in ("", ".gz")]
    for name in names:
        if (folder / f"{split}{name}").is_file():
            return [folder / f"{split}{name}"]
    here = sorted(file.name for file in folder.iterdir() if file.name.endswith(tuple(names)))
    train = {f"train{name}" for name in names}
    if train.isdisjoint(here):
        return []
    # A test part under a name that we do not know must not pass for none.
    kind = ContinualError if set(here) - train else NoSplitError
    raise kind(f"{folder}: has no file of the split '{split}'; it has {', '.join(here)}")


def _from_hub(path: str, name: str | None, kwargs: Mapping[str, Any], split: str) -> list[Row] | LargeRows:
    import datasets

    rest = dict(kwargs)
    streamed = rest.pop("rows", None) if rest.get("streaming") else None
    if rest.get("streaming") and not isinstance(streamed, int):
        raise ContinualError(
            "dataset_kwargs: a stream needs the number of rows to read: {streaming: true, rows: 20000}"
        )
    try:
        data = datasets.load_dataset(path, name, split=split, **rest)
    except ValueError as error:
        kind = NoSplitError if str(error).startswith("Unknown split") else ContinualError
        raise kind(f"'{path}' (split {split}): ValueError: {_first_line(error)}") from None
    # load_dataset tells a missing network, name or configuration by these.
    except OSError as error:
        raise ContinualError(f"'{path}' (split {split}): {type(error).__name__}: {_first_line(error)}") from None
    if streamed is not None:
        return list(data.take(streamed))
    if (data.info.dataset_size or 0) > LARGE:
        return ArrowRows(lambda: _batches(data))
    return list(data)


def _batches(data: Any) -> Iterator[Any]:
    for batch in data.with_format("arrow").iter(batch_size=10_000):
        yield from batch.to_batches()


def _from_python(home: Path, kwargs: Mapping[str, Any], split: str) -> list[Row]:
    rest = dict(kwargs)
    file, function = rest.pop("file", None), rest.pop("function", None)
    if not isinstance(file, str) or not isinstance(function, str):
        raise ContinualError("dataset_kwargs: needs file and function, e.g. {file: world.py, function: translate}")
    if Path(file).name != file:
        raise ContinualError(f"dataset_kwargs.file: '{file}' should lie beside the task file")
    generator = _function(_module(home / file), function, home / file)
    return checked(generator(split, **rest), f"{home / file}: {function}")


def _module(file: Path) -> ModuleType:
    if not file.is_file():
        raise ContinualError(f"{file}: no such file")
    name = f"continual_tasks_{file.stem}_{abs(hash(file.resolve()))}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        # Dataclasses look their module up by name while it is being made.
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _function(module: ModuleType, name: str, file: Path) -> Callable[..., Any]:
    known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    if name not in known:
        raise ContinualError(f"dataset_kwargs.function: {file} has no '{name}'{did_you_mean(name, known)}")
    function: Callable[..., Any] = vars(module)[name]
    return function


def _only(kwargs: Mapping[str, Any], *known: str) -> Mapping[str, Any]:
    unknown = [key for key in kwargs if key not in known]
    if unknown:
        raise ContinualError(
            f"dataset_kwargs.{unknown[0]}: unknown key{did_you_mean(unknown[0], known)}; known: {', '.join(known)}"
        )
    return kwargs


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"
