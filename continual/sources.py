"""Where the rows of a task come from: the Hub, a folder, files, or a Python generator beside the file."""

import csv
import gzip
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from continual.errors import ContinualError
from continual.problems import did_you_mean

Row = dict[str, Any]

DATA_ROOT = "CONTINUAL_DATA"
"""The environment variable that names the folder of local copies, where ``--data-root`` is not given."""

BUILDERS = ("json", "csv", "parquet")
_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


def mirror_file(data_root: Path | None, path: str, split: str) -> Path | None:
    """The expected local copy of a split, ``<root>/<path>.<split>.jsonl.gz``; None where no root is given."""
    root = data_root or (Path(os.environ[DATA_ROOT]) if os.environ.get(DATA_ROOT) else None)
    return root / f"{path}.{split}.jsonl.gz" if root else None


def rows_of(home: Path, path: str, name: str | None, kwargs: Mapping[str, Any], split: str) -> list[Row]:
    """The rows of one split.

    Args:
        home: the folder of the task file; relative paths start there.
        path: ``dataset_path``: json, csv, parquet, python, a folder, or a name on the Hub.
        name: ``dataset_name``, the configuration of a data set on the Hub.
        kwargs: ``dataset_kwargs``.
        split: the split as the data set calls it.

    Raises:
        ContinualError: the data is not there or cannot be read. Says what was looked for, not the task.
    """
    if path == "python":
        return _from_python(home, kwargs, split)
    if path in BUILDERS:
        return _from_files(home, kwargs, split)
    if is_folder(home, path):
        return _from_folder(home / path, name, kwargs, split)
    return _from_hub(path, name, kwargs, split)


def is_folder(home: Path, path: str) -> bool:
    """Whether ``dataset_path`` means a folder; a name on the Hub has no leading dot or slash."""
    return path.startswith((".", "/", "~")) or (home / path).is_dir()


def is_remote(home: Path, path: str) -> bool:
    """Whether ``dataset_path`` is a name on the Hub."""
    return path not in (*BUILDERS, "python") and not is_folder(home, path)


def read_file(file: Path) -> list[Row]:
    """The rows of a JSON Lines, JSON, CSV or Parquet file, packed with gzip or not.

    Raises:
        ContinualError: no such file, another format, or rows that cannot be read.
    """
    if not file.is_file():
        raise ContinualError(f"{file}: no such file")
    kind = Path(file.name.removesuffix(".gz")).suffix
    try:
        if kind == ".parquet":
            import pyarrow.parquet

            rows: Any = pyarrow.parquet.read_table(file).to_pylist()
        elif kind in (".jsonl", ".json", ".csv"):
            packed = file.suffix == ".gz"
            with (
                gzip.open(file, "rt", encoding="utf-8", newline="")
                if packed
                else file.open(encoding="utf-8", newline="") as stream
            ):
                rows = list(csv.DictReader(stream)) if kind == ".csv" else _json_rows(stream.read(), file)
        else:
            raise ContinualError(f"{file}: should end in {', '.join(_SUFFIXES)}, with .gz or without")
    except (OSError, EOFError, csv.Error, UnicodeDecodeError) as error:
        raise ContinualError(f"{file}: cannot be read: {error}") from None
    return checked(rows, str(file))


def checked(rows: Any, where: str) -> list[Row]:
    """The rows, if they are a list of mappings.

    Raises:
        ContinualError: they are not.
    """
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ContinualError(f"{where}: should hold a list of rows, each with named columns")
    return rows


def _json_rows(text: str, file: Path) -> Any:
    if text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise ContinualError(f"{file}:{error.lineno}: not valid JSON: {error.msg}") from None
    rows = []
    # Not splitlines(): it also breaks at U+2028 and others, which JSON strings may hold.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ContinualError(f"{file}:{number}: not valid JSON: {error.msg}") from None
    return rows


def _from_files(home: Path, kwargs: Mapping[str, Any], split: str) -> list[Row]:
    files = _only(kwargs, "data_files").get("data_files")
    if files is None:
        raise ContinualError("dataset_kwargs.data_files: names no file, e.g. {train: train.jsonl, test: test.jsonl}")
    by_split = files if isinstance(files, dict) else {"train": files}
    if split not in by_split:
        raise ContinualError(
            f"dataset_kwargs.data_files: has no split '{split}'; "
            f"the splits are: {', '.join(by_split)}{did_you_mean(split, by_split)}"
        )
    named = by_split[split]
    return [row for one in ([named] if isinstance(named, str) else named) for row in read_file(home / one)]


def _from_folder(folder: Path, name: str | None, kwargs: Mapping[str, Any], split: str) -> list[Row]:
    folder = folder.expanduser()
    if not folder.is_dir():
        raise ContinualError(f"{folder}: no such folder")
    for suffix in _SUFFIXES:
        for packed in ("", ".gz"):
            file = folder / f"{split}{suffix}{packed}"
            if file.is_file():
                return read_file(file)
    return _from_hub(str(folder), name, kwargs, split)


def _from_hub(path: str, name: str | None, kwargs: Mapping[str, Any], split: str) -> list[Row]:
    import datasets

    try:
        return list(datasets.load_dataset(path, name, split=split, **kwargs))
    # load_dataset tells a missing network, name, configuration or split by these two.
    except (OSError, ValueError) as error:
        raise ContinualError(f"'{path}' (split {split}): {type(error).__name__}: {_first_line(error)}") from None


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
