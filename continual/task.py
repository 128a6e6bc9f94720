"""A task gives samples: a data set, its wordings, its answer and its metric, read from a YAML file.

Tasks are found by name: those of the user's folders first, then the shipped ones.
"""

import re
import warnings
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import yaml
from pydantic import PrivateAttr

from continual import sources, yamlfile
from continual.errors import ContinualError
from continual.paths import shipped
from continual.pool import Pool
from continual.problems import did_you_mean
from continual.rendering import Renderer
from continual.rowfiles import LARGE, READ_OFF, LargeRows, Row, open_rows, read_file, size_of
from continual.sample import Sample
from continual.seeds import derive
from continual.sources import NoSplitError, Source
from continual.taskfile import TaskFile

Split = Literal["train", "dev", "test"]

_NAME = re.compile(r"^task:[ \t]*['\"]?([^'\"#\s]+)", re.MULTILINE)


class Task(TaskFile):
    """One task."""

    _pools: dict[tuple[str, Path | None], Pool] = PrivateAttr(default_factory=dict)
    """What was read of each split, by split and data root: rows are read and rendered once."""
    _parts: dict[tuple[str, Path | None], tuple[Pool, np.ndarray]] = PrivateAttr(default_factory=dict)
    """What `_part` gave."""

    def samples(
        self, split: Split, *, seed: int = 0, data_root: Path | None = None, limit: int | None = None
    ) -> list[Sample]:
        """The samples of a split, in the order of the data.

        Args:
            split: train, dev, or test. Dev is ``validation_split``, or a tenth of train that is then not in
                train, drawn by a fixed hash of each row. So is test where the data have none.
            seed: chooses the wording of each training row; dev and test rows keep theirs.
            data_root: a folder of local copies (see ``metadata.local``); left out, the environment variable
                CONTINUAL_DATA names it.
            limit: at most so many rows, those with the smallest hash: the same for every seed. Of
                dialogues as many as fit, and the first turns of one more.

        Raises:
            ContinualError: the data is not there, or does not fit the templates.
        """
        pool, indices = self._part(split, data_root)
        rendered = pool.rendered(indices, limit)
        if not rendered:
            raise ContinualError(f"{self.at('dataset_path')}: dataset_path: no row is left for {split}")
        stream = seed if split == "train" else "fixed"
        renderer = pool.renderer
        return [renderer.sample(one, derive(stream, self.task, one.key)) for one in rendered]

    def count(self, split: Split, data_root: Path | None = None) -> int | None:
        """The number of rows of a split; None where it takes a download to know."""
        part_of_train = split == "dev" and not self._dev_is_apart(data_root)
        file = self._copy("train" if part_of_train else split, data_root)
        if self.source.remote and not (file and file.is_file()):
            return None
        pool, indices = self._part(split, data_root)
        return pool.count(indices)

    def notices(self, data_root: Path | None = None) -> list[str]:
        """Say what a user may not expect of the data, see `docs/tasks.md`: one sentence each.

        Raises:
            ContinualError: as `samples`.
        """
        return [f"{self.task}: {notice}" for notice in (*self._unread(data_root), *self._test_rows(data_root))]

    def _unread(self, data_root: Path | None) -> list[str]:
        unread = sorted(self._pool("train", data_root).renderer.unread)
        return [f"not read of the conversations: {', '.join(unread)}"] if unread else []

    def _test_rows(self, data_root: Path | None) -> list[str]:
        train = self._pool("train", data_root)
        if self._lacks_test(data_root):
            held_out = len(self._part("test", data_root)[1])
            return [
                f"the data have no test part: {held_out:,} of {len(train.keys):,} rows are held out "
                "for it by a fixed hash, and not trained on"
            ]
        test = self._pool("test", data_root)
        if train.on_disk != test.on_disk:
            return ["train and test rows come from different sources and were not compared"]
        shared = int(np.isin(test.keys, train.keys).sum())
        if not shared:
            return []
        stand = "stands" if shared == 1 else "stand"
        return [
            f"{shared:,} of {len(test.keys):,} test rows {stand} in the training data too, "
            "prompt and answer: their scores say what was memorized"
        ]

    def check_first_rows(self, count: int, data_root: Path | None = None) -> bool:
        """Render the first rows of each split where they are at hand; False where they are on the Hub.

        Raises:
            ContinualError: a row does not fit the templates, with its number.
        """
        splits: list[Split] = ["train", "test"]
        if self._dev_is_apart(data_root):
            splits.append("dev")
        looked = False
        for split in splits:
            file = self._copy(split, data_root)
            local = file is not None and file.is_file()
            if not local and self.source.remote:
                continue
            looked = True
            self._refuse_training_rows()
            try:
                rows = read_file(file)[:count] if file and local else self._first_rows(split, count)
            except NoSplitError:
                if not self._may_hold_out(split):
                    raise
                continue
            Renderer(self, local).render(rows, split)
        return looked

    @property
    def source(self) -> Source:
        """The data set that the file names."""
        home = self._document.path.parent if self._document else Path()
        return Source(home, self.dataset_path, self.dataset_name, self.dataset_kwargs)

    def _part(self, split: Split, data_root: Path | None) -> tuple[Pool, np.ndarray]:
        """The rows of a split: where they are read from, and their indices there."""
        key = (split, data_root)
        if key not in self._parts:
            self._parts[key] = self._drawn(split, data_root)
        return self._parts[key]

    def _drawn(self, split: Split, data_root: Path | None) -> tuple[Pool, np.ndarray]:
        held_out = self._lacks_test(data_root)
        if (split == "test" and not held_out) or (split == "dev" and self._dev_is_apart(data_root)):
            apart = self._pool(split, data_root)
            return apart, np.arange(len(apart.keys))
        pool = self._pool("train", data_root)
        indices = np.arange(len(pool.keys))
        if self.metadata.get("deduplicate"):
            indices = np.sort(np.unique(pool.keys, return_index=True)[1])
        # Rows that say the same share a hash, so that no row of test or dev is also in train.
        if held_out:
            distinct = pool.distinct(indices)
            last = distinct[-_held_out(len(distinct))]
            indices = indices[(pool.units[indices] >= last) == (split == "test")]
        if split != "test" and not self._dev_is_apart(data_root) and len(indices):
            distinct = pool.distinct(indices)
            first = distinct[max(1, len(distinct) // 10) - 1]
            indices = indices[(pool.units[indices] <= first) == (split == "dev")]
        if not len(indices):
            raise ContinualError(f"{self.at('dataset_path')}: dataset_path: no row is left for {split}")
        return pool, indices

    def _lacks_test(self, data_root: Path | None) -> bool:
        """Whether the data have no test part, so that a part of train is held out."""
        copies = (self._copy(split, data_root) for split in ("train", "test"))
        if not self._may_hold_out("test") or any(file is not None and file.is_file() for file in copies):
            return False
        try:
            if self.dataset_path == "python" or self.source.files(self._split_name("test")):
                return False
        except NoSplitError:
            return self.source.has_files(self.training_split)
        except ContinualError:
            return False  # reading the rows says what is wrong
        try:
            self._pool("test", data_root)  # only `datasets` knows
        except NoSplitError:
            return True
        return False

    def _may_hold_out(self, split: Split) -> bool:
        return split == "test" and self.test_split is None and self.validation_split is None

    def _refuse_training_rows(self) -> None:
        """Refuse a test part that is the training part.

        Raises:
            ContinualError: both are the same split, or share a file.
        """
        name = self._split_name("test")
        if name == self.training_split:
            key = "test_split" if self.test_split else "validation_split"
            raise ContinualError(
                f"{self.at(key)}: {key}: these are the training rows; left out, a part of them is held out"
            )
        train, test = (
            {file.resolve() for file in self.source.files(split)} if self.source.has_files(split) else set[Path]()
            for split in (self.training_split, name)
        )
        for file in sorted(train & test):
            raise ContinualError(
                f"{self.at('dataset_kwargs')}: dataset_kwargs.data_files: the rows of {file.name} are the "
                f"training rows, and the test rows too; without '{name}' a part of them is held out"
            )

    def _pool(self, split: Split, data_root: Path | None) -> Pool:
        key = (split, data_root)
        if key not in self._pools:
            self._pools[key] = self._load(split, data_root)
        return self._pools[key]

    def _load(self, split: Split, data_root: Path | None) -> Pool:
        file = self._copy(split, data_root)
        local = file is not None and file.is_file()
        if not local:
            self._refuse_training_rows()
        renderer = Renderer(self, local)
        on_disk = self._is_large(data_root)
        if file and local:
            rows = open_rows([file], READ_OFF) if on_disk else read_file(file)
        else:
            rows = self._source_rows(split, file, on_disk)
        pool = Pool.of(renderer, rows, split)
        if not len(pool.keys):
            raise ContinualError(f"{self.at('dataset_path')}: dataset_path: {split} has no rows")
        return pool

    def _is_large(self, data_root: Path | None) -> bool:
        """Whether a split of the data is too large for memory; all of them are then read in the same way."""
        sizes = []
        for split in ("train", "test"):
            file = self._copy(split, data_root)
            if file is not None and file.is_file():
                sizes.append(size_of(file))
            elif self.source.has_files(self._split_name(split)):
                sizes.append(sum(map(size_of, self.source.files(self._split_name(split)))))
        # Both take the rows as they are rendered.
        keys = {*self.metadata, *self.metadata.get("local", {})}
        return max(sizes, default=0) > LARGE and not keys & {"explode", "dialogue"}

    def _source_rows(self, split: Split, file: Path | None, on_disk: bool) -> list[Row] | LargeRows:
        try:
            rows = self.source.rows(self._split_name(split), on_disk)
        except ContinualError as error:
            raise type(error)(self._missing(split, str(error), file)) from None
        column = self.metadata.get("explode")
        if column is None:
            return rows
        listed = rows if isinstance(rows, list) else rows.take(range(len(rows.digests)))
        return [{**row, **inner} for row in listed for inner in row[column]]

    def _first_rows(self, split: Split, count: int) -> list[Row]:
        try:
            rows = self.source.first_rows(self._split_name(split), count)
        except ContinualError as error:
            raise type(error)(self._missing(split, str(error), None)) from None
        column = self.metadata.get("explode")
        return [{**row, **inner} for row in rows for inner in row[column]] if column else rows

    def _missing(self, split: Split, error: str, file: Path | None) -> str:
        where = f"{self.at('dataset_path')}: dataset_path"
        if not self.source.remote:
            return f"{where}: {error}"
        copy = f"{self.metadata['local']['path']}.{split}.jsonl.gz" if "local" in self.metadata else ""
        looked = f"looked for {file}, then " if file else ""
        local = f", or keep a copy as DIR/{copy} and give --data-root DIR or CONTINUAL_DATA=DIR" if copy else ""
        return (
            f"{where}: the {split} rows of '{self.task}' are not here: {looked}asked the Hugging Face Hub "
            f"for {error}; to get them, run once with a network{local}"
        )

    def _split_name(self, split: Split) -> str:
        if split == "train":
            return self.training_split
        if split == "dev":
            return self.validation_split or self.training_split
        return self.test_split or self.validation_split or "test"

    def _copy(self, split: Split, data_root: Path | None) -> Path | None:
        local = self.metadata.get("local")
        return sources.mirror_file(data_root, local["path"], split) if local else None

    def _dev_is_apart(self, data_root: Path | None) -> bool:
        copies = [self._copy(split, data_root) for split in ("dev", "train")]
        for file, apart in zip(copies, (True, False), strict=True):
            if file and file.is_file():
                return apart
        # Without a test split the validation split gives the scores, and must not choose anything as well.
        return self.validation_split is not None and self.test_split is not None


def read_task(path: Path) -> Task:
    """Read a task file.

    Raises:
        ContinualError: every mistake of the file, one per line.
    """
    try:
        document = yamlfile.load(path)
    except ContinualError:
        _refuse_tags(path)
        raise
    return _task_of(document)


def parse_task(text: str, path: Path) -> Task:
    """Read the text of a task file that is yet to be written; its data are looked for from `path`.

    Raises:
        ContinualError: as `read_task`.
    """
    return _task_of(yamlfile.parse(text, path))


def _task_of(document: yamlfile.Document) -> Task:
    task = yamlfile.validate(Task, document)
    task._document = document
    return task


def find_task(name: str, folders: Sequence[Path] = ()) -> Task:
    """The task of that name; a file in one of the folders wins over a shipped one, with a warning.

    Raises:
        ContinualError: there is no such task, two files of one folder claim the name, or the file has
            mistakes.
    """
    return TaskIndex(folders).find(name)


class TaskIndex:
    """The task files of some folders and the shipped ones by name, each folder looked through once.

    Raises:
        ContinualError: two files of one folder claim the same name.
    """

    def __init__(self, folders: Sequence[Path] = ()) -> None:
        self.files = _index([*folders, shipped("tasks")])

    def find(self, name: str) -> Task:
        """Read the task of that name; a file that hides another is said.

        Raises:
            ContinualError: there is no such task, or its file has mistakes.
        """
        if name not in self.files:
            raise ContinualError(f"unknown task '{name}'{did_you_mean(name, self.files)}")
        path, *others = self.files[name]
        hidden = next((other for other in others if not other.samefile(path)), None)
        if hidden is not None:
            _announce(name, path.resolve(), hidden.resolve())
        return read_task(path)

    def find_all(self, names: Iterable[str]) -> dict[str, Task]:
        """Read several tasks, by name.

        Raises:
            ContinualError: as `find`.
        """
        return {name: self.find(name) for name in names}


@cache
def _announce(name: str, path: Path, hidden: Path) -> None:
    """Warn, once in the life of a process: a run looks for each task several times."""
    warnings.warn(f"the task '{name}' is {path}, which hides {hidden}", stacklevel=3)


def list_tasks(folders: Sequence[Path] = ()) -> list[Task]:
    """Every task that `find_task` finds, by family and name.

    Raises:
        ContinualError: a file has mistakes.
    """
    tasks = [read_task(paths[0]) for paths in TaskIndex(folders).files.values()]
    return sorted(tasks, key=lambda task: (task.family, task.task))


def _index(folders: Sequence[Path]) -> dict[str, list[Path]]:
    """The files of each task, the winner first. Only names are read, so that one bad file hurts no other."""
    found: dict[str, list[Path]] = {}
    for folder in folders:
        here: dict[str, Path] = {}
        for path in sorted([*folder.rglob("*.yaml"), *folder.rglob("*.yml")]):
            match = _NAME.search(path.read_text(encoding="utf-8", errors="replace"))
            if match is None:
                continue
            if match[1] in here:
                raise ContinualError(f"{path}: task: '{match[1]}' is already the name of {here[match[1]]}")
            here[match[1]] = path
        for name, path in here.items():
            found.setdefault(name, []).append(path)
    return found


def _held_out(rows: int) -> int:
    """How many of so many different rows make a test part: a tenth; of few rows more, up to a fifth."""
    return max(1, min(rows // 5, 50), rows // 10)


def _refuse_tags(path: Path) -> None:
    """Name the YAML tags of a file that could not be read, such as ``!function``.

    Raises:
        ContinualError: there are some.
    """
    try:
        tokens = list(yaml.scan(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, OSError, UnicodeDecodeError):
        return
    tags = [token for token in tokens if isinstance(token, yaml.TagToken)]
    if tags:
        raise ContinualError(
            *(f"{path}:{tag.start_mark.line + 1}: !{tag.value[1]}: not supported in a training task" for tag in tags)
        )
