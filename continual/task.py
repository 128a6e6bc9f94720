"""A task gives samples: a data set, its wordings, its answer and its metric, read from a YAML file.

Tasks are found by name: those of the user's folders first, then the shipped ones.
"""

import re
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import PrivateAttr

from continual import sources, yamlfile
from continual.errors import ContinualError
from continual.paths import shipped
from continual.problems import did_you_mean
from continual.rendering import Rendered, Renderer
from continual.sample import Sample
from continual.seeds import derive
from continual.taskfile import TaskFile

Split = Literal["train", "dev", "test"]

_NAME = re.compile(r"^task:[ \t]*['\"]?([^'\"#\s]+)", re.MULTILINE)


class Task(TaskFile):
    """One task."""

    _train: dict[Path | None, tuple[Renderer, list[Rendered]]] = PrivateAttr(default_factory=dict)
    """Rows that both train and dev are taken from, by data root: read and rendered once."""

    def samples(
        self, split: Split, *, seed: int = 0, data_root: Path | None = None, limit: int | None = None
    ) -> list[Sample]:
        """The samples of a split, in the order of the data.

        Args:
            split: train, dev, or test. Dev is ``validation_split``, or a tenth of train that is then not in
                train, drawn by a fixed hash of each row.
            seed: chooses the wording of each training row; dev and test rows keep theirs.
            data_root: a folder of local copies (see ``metadata.local``); left out, the environment variable
                CONTINUAL_DATA names it.
            limit: at most so many rows, those with the smallest hash: the same for every seed. Of
                dialogues as many as fit, and the first turns of one more.

        Raises:
            ContinualError: the data is not there, or does not fit the templates.
        """
        renderer, rendered = self._rows(split, data_root)
        if limit is not None and limit < len(rendered):
            kept = sorted(range(len(rendered)), key=lambda index: rendered[index].unit)[:limit]
            rendered = [rendered[index] for index in sorted(kept)]
        stream = seed if split == "train" else "fixed"
        return [renderer.sample(one, derive(stream, self.task, one.key)) for one in rendered]

    def count(self, split: Split, data_root: Path | None = None) -> int | None:
        """The number of rows of a split; None where it takes a download to know."""
        part_of_train = split == "dev" and not self._dev_is_apart(data_root)
        file = self._copy("train" if part_of_train else split, data_root)
        if sources.is_remote(self._home, self.dataset_path) and not (file and file.is_file()):
            return None
        return len(self._rows(split, data_root)[1])

    @property
    def _home(self) -> Path:
        return self._document.path.parent if self._document else Path()

    def _rows(self, split: Split, data_root: Path | None) -> tuple[Renderer, list[Rendered]]:
        if split == "test" or (split == "dev" and self._dev_is_apart(data_root)):
            return self._load(split, data_root)
        renderer, rendered = self._all_train(data_root)
        if self.metadata.get("deduplicate"):
            first: dict[int, Rendered] = {}
            for one in rendered:
                first.setdefault(one.key, one)
            rendered = list(first.values())
        if not self._dev_is_apart(data_root):
            # Rows that say the same share a key, so that no row of dev is also in train.
            units = sorted({one.unit for one in rendered})
            held_out = set(units[: max(1, len(units) // 10)])
            rendered = [one for one in rendered if (one.unit in held_out) == (split == "dev")]
        if not rendered:
            raise ContinualError(f"{self.at('dataset_path')}: dataset_path: no row is left for {split}")
        return renderer, rendered

    def _all_train(self, data_root: Path | None) -> tuple[Renderer, list[Rendered]]:
        if self._dev_is_apart(data_root):
            return self._load("train", data_root)
        if data_root not in self._train:
            self._train[data_root] = self._load("train", data_root)
        return self._train[data_root]

    def _load(self, split: Split, data_root: Path | None) -> tuple[Renderer, list[Rendered]]:
        file = self._copy(split, data_root)
        local = file is not None and file.is_file()
        renderer = Renderer(self, local)
        rows = sources.read_file(file) if file and local else self._source_rows(split, file)
        rendered = renderer.render(rows, split)
        if not rendered:
            raise ContinualError(f"{self.at('dataset_path')}: dataset_path: {split} has no rows")
        return renderer, rendered

    def _source_rows(self, split: Split, file: Path | None) -> list[sources.Row]:
        try:
            rows = sources.rows_of(
                self._home, self.dataset_path, self.dataset_name, self.dataset_kwargs, self._split_name(split)
            )
        except ContinualError as error:
            raise ContinualError(self._missing(split, str(error), file)) from None
        column = self.metadata.get("explode")
        return [{**row, **inner} for row in rows for inner in row[column]] if column else rows

    def _missing(self, split: Split, error: str, file: Path | None) -> str:
        where = f"{self.at('dataset_path')}: dataset_path"
        if not sources.is_remote(self._home, self.dataset_path):
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
    task = yamlfile.validate(Task, document)
    task._document = document
    return task


def find_task(name: str, folders: Sequence[Path] = ()) -> Task:
    """The task of that name; a file in one of the folders wins over a shipped one, with a warning.

    Raises:
        ContinualError: there is no such task, two files of one folder claim the name, or the file has
            mistakes.
    """
    found = _index([*folders, shipped("tasks")])
    if name not in found:
        raise ContinualError(f"unknown task '{name}'{did_you_mean(name, found)}")
    path, *others = found[name]
    hidden = next((other for other in others if not other.samefile(path)), None)
    if hidden is not None:
        _announce(name, path.resolve(), hidden.resolve())
    return read_task(path)


@cache
def _announce(name: str, path: Path, hidden: Path) -> None:
    """Warn, once in the life of a process: a run looks for each task several times."""
    warnings.warn(f"the task '{name}' is {path}, which hides {hidden}", stacklevel=3)


def list_tasks(folders: Sequence[Path] = ()) -> list[Task]:
    """Every task that `find_task` finds, by family and name.

    Raises:
        ContinualError: a file has mistakes.
    """
    tasks = [read_task(paths[0]) for paths in _index([*folders, shipped("tasks")]).values()]
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
