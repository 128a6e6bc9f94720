"""The run directory: atomic writes, the manifest, what is finished and what is not.

Every artefact is written under a temporary name, synced and renamed, so that a run can die at any moment.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from continual.errors import ContinualError


def write_text(path: Path, content: str) -> None:
    """Write a file so that it is there whole or not at all."""
    write_bytes(path, content.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync_folder(path.parent)


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write into a temporary folder, then rename it; an older folder of that name is replaced."""
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    fill(temporary)
    for file in temporary.rglob("*"):
        if file.is_file():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
    remove_folder(path)
    os.replace(temporary, path)
    _sync_folder(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder so that it is there whole or not at all."""
    if path.exists():
        dying = path.with_name(f".{path.name}.removed")
        shutil.rmtree(dying, ignore_errors=True)
        os.replace(path, dying)
        shutil.rmtree(dying)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _flock(folder: Path, operation: int) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, operation)
        yield
    finally:
        os.close(handle)


def _is_held(folder: Path) -> bool:
    """True if another process, or another handle of this one, has the folder locked."""
    try:
        with _flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
            return False
    except BlockingIOError:
        return True


Matrix = list[list[float | None]]


def write_matrix(path: Path, tasks: Sequence[str], rows: Sequence[str], matrix: Matrix) -> None:
    """R as CSV: a column per task, a row per task learnt; all digits; empty where unknown."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["after", *tasks])
    for name, row in zip(rows, matrix, strict=True):
        table.writerow([name, *("" if cell is None else repr(cell) for cell in row)])
    write_text(path, out.getvalue())


def read_matrix(path: Path) -> tuple[list[str], list[str], Matrix]:
    """Tasks, row names and cells, as `write_matrix` wrote them."""
    with open(path, encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    return header[1:], [row[0] for row in rows], [[float(c) if c else None for c in row[1:]] for row in rows]


WRITTEN = (
    "manifest.json",
    "arms",
    "base",
    "plots",
    "recipe.yaml",
    "router",
    "merge-report",
    "results.json",
    "report.html",
    "report.md",
    "README.md",
)
"""What a run writes into its directory."""


class Run:
    """A run directory.

    Args:
        path: where it is or will be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def manifest_path(self) -> Path:
        return self.path / "manifest.json"

    @property
    def exists(self) -> bool:
        # The folder of a model has a manifest, too.
        model = any((self.path / name).exists() for name in ("adapter_config.json", "config.json"))
        return self.manifest_path.exists() and not model

    @property
    def begun(self) -> bool:
        """Whether a run died here before its manifest was written, or only scores of the base were put here."""
        return {p.name for p in self.path.iterdir()} <= {
            "base",
            "recipe.yaml",
            ".recipe.yaml.tmp",
            ".manifest.json.tmp",
        }

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While one process writes here; freed by the system however the process ends.

        Raises:
            ContinualError: another process is writing here.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with _flock(self.path, fcntl.LOCK_EX | fcntl.LOCK_NB):
                yield
        except BlockingIOError:
            raise ContinualError(f"{self.path}: another process is carrying out this run") from None

    @property
    def being_carried_out(self) -> bool:
        """True while a process holds `locked`."""
        return _is_held(self.path)

    @contextmanager
    def used(self) -> Iterator[None]:
        """While a process answers with the models of this run, and may load more of them at any time.

        Several may, also on a file system that is read-only.
        """
        if not self._arms.is_dir():
            yield  # nothing was taught yet that a rollback could take away
            return
        with _flock(self._arms, fcntl.LOCK_SH):
            yield

    @property
    def in_use(self) -> bool:
        """True while a process is inside `used`."""
        return self._arms.is_dir() and _is_held(self._arms)

    @property
    def _arms(self) -> Path:
        return self.path / "arms"

    def remove(self) -> None:
        """Throw away what a run writes, and nothing else."""
        for name in WRITTEN:
            path = self.path / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def manifest(self) -> dict[str, Any]:
        """The manifest.

        Raises:
            ContinualError: the folder holds no run.
        """
        if not self.exists:
            raise ContinualError(f"{self.path}: no run here (there is no manifest.json)")
        return dict(read_json(self.manifest_path))

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        write_json(self.manifest_path, manifest)

    def arm(self, arm: str, run_name: str) -> Path:
        """The folder of one arm at one seed and sweep point."""
        return self.path / "arms" / arm / run_name

    def runs(self) -> list[Path]:
        """The folders of all arms, seeds and sweep points that have begun."""
        return sorted(p.parent for p in self.path.glob("arms/*/*/run.json"))
