"""Where the models that a run leaves behind come from: a manifest and a card in each one's folder.

Both are written from the files of the run, so that they can be written again when more is known.
"""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from continual.card import adapter_card
from continual.recipe import Recipe
from continual.runs import Run, read_json, write_json, write_text

FILE, CARD, TRAINED = "manifest.json", "README.md", "trained.json"

LOADED = (
    "adapter_config.json", "adapter_model.safetensors", "config.json", "generation_config.json",
    "model.safetensors", "model-*.safetensors", "model.safetensors.index.json", "chat_template.jinja",
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "spiece.model",
    "merge.yaml", "merge.json",
)  # fmt: skip
"""What others load of a folder, and how a merge was made. Whatever else lies there is ours: the state of methods, what
training took."""

WEIGHTS = ("adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json")


def files_of(folder: Path) -> list[Path]:
    """The files of a model or an adapter that others load, by name."""
    return sorted(p for p in folder.iterdir() if p.is_file() and any(fnmatch.fnmatch(p.name, n) for n in LOADED))


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each of `files_of`."""
    return {path.name: sha256(path) for path in files_of(folder)}


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def identity(folder: Path) -> str | None:
    """The hash of a folder's weights, by which a child names its parent; None if it is gone."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return sha256(folder / name)
    return None


def manifest_of(folder: Path) -> dict[str, Any]:
    """The manifest of a model's folder; of one from elsewhere, which has none, what can be told of it."""
    if (folder / FILE).is_file():
        return dict(read_json(folder / FILE))
    known = folder / "adapter_config.json"
    base = read_json(known)["base_model_name_or_path"] if known.is_file() else None
    return {"schema": 1, "name": folder.resolve().name, "base": base, "files": hashes(folder)}


def write(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Put a manifest and the card that says the same into a folder."""
    write_json(folder / FILE, manifest)
    write_text(folder / CARD, adapter_card(manifest))


def describe(run_dir: Path) -> None:
    """Write manifest and card of every model that a run has left behind so far."""
    for folder in Run(run_dir).runs():
        told = read_json(folder / "run.json")
        for state, name, row, tasks in _states(folder, told):
            write(state, _manifest(run_dir, state, name, row, tasks, told))


def _states(folder: Path, told: Mapping[str, Any]) -> Iterator[tuple[Path, str, int, list[str]]]:
    """Each saved model of one run of an arm: its folder, its name, its row of R, the tasks that it was taught."""
    arm = folder.parent.name
    last = max((int(p.name) for p in folder.glob("after/*") if p.name.isdigit()), default=0)
    for state in folder.glob("after/*"):
        if not state.name.isdigit():
            continue
        number = int(state.name)
        if told["teach"] != "sequential":
            tasks = list(told["order"])
        elif told["spans"] is None:
            tasks = told["order"][:number]
        else:
            tasks = [task for task, (first, _) in zip(told["order"], told["spans"], strict=True) if first <= number]
        yield state, arm if number == last else f"{arm}-after-{number}", number, tasks
    for state in folder.glob("specialists/*"):
        if not state.name.startswith("."):
            yield state, state.name, 1, [state.name]


def _manifest(
    run_dir: Path, state: Path, name: str, row: int, tasks: list[str], told: Mapping[str, Any]
) -> dict[str, Any]:
    import yaml

    run = Run(run_dir).manifest()
    recipe = Recipe.model_validate(yaml.safe_load((run_dir / "recipe.yaml").read_text(encoding="utf-8")))
    at_point = recipe.with_set(told["set"]) if told["set"] else recipe
    arm = at_point.arms[told["arm"]].model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    settings = {
        "adapter": at_point.adapter and at_point.adapter.model_dump(mode="json", exclude_none=True),
        "training": at_point.training_of(told["arm"], tasks[0] if len(tasks) == 1 else None).model_dump(
            mode="json", exclude_none=True
        ),
        "arm": arm,
    }
    # Weights never change after their folder was written; what came before them may be gone by now.
    before = read_json(state / FILE) if (state / FILE).is_file() else {}
    return {
        "schema": 1,
        "name": name,
        "base": recipe.model_name_or_path,
        **{key: value for key, value in recipe.origin.identity.items() if key != "name"},
        "run": {
            "name": run["name"],
            "recipe_hash": run["recipe_hash"],
            "arm": told["arm"],
            "teach": told["teach"],
            "seed": told["seed"],
            "set": told["set"],
        },
        "form": run.get("form"),
        "settings": settings,
        "tasks": tasks,
        "data": {task: known for task, known in run["data"].items() if task in tasks},
        "metrics": {task: known for task, known in run["metrics"].items() if task in told["tasks"]},
        "scores": _scores(told, row, name if told["teach"] == "specialists" else None),
        "parents": before.get("parents") or _parents(run_dir, state, row, at_point, told),
        "versions": run["versions"],
        "files": before.get("files") or hashes(state),
    }


def _scores(told: Mapping[str, Any], row: int, only: str | None) -> dict[str, dict[str, float | None]]:
    """Of the untaught base and of this model, on test rows."""
    named = {"base": told["R"][:1], "own": told["R"][row : row + 1]}
    return {
        who: {task: cell for task, cell in zip(told["tasks"], rows[0], strict=True) if only in (None, task)}
        for who, rows in named.items()
        if rows
    }


def _parents(
    run_dir: Path, state: Path, row: int, recipe: Recipe, told: Mapping[str, Any]
) -> list[dict[str, str | None]]:
    """What a model was made of, apart from the base.

    A way of teaching that makes a model of others writes their folders, seen from the run's, into `trained.json`
    (``"parents"``).
    """
    given = read_json(state / TRAINED).get("parents")
    if given is None and told["teach"] == "sequential" and row > 1:
        given = [str((state.parent / str(row - 1)).relative_to(run_dir))]
    if given is None and told["teach"] in ("merge", "distill"):
        theirs = recipe.specialists_of(recipe.arms[told["arm"]], told["seed"], told["set"])
        given = [f"arms/{theirs}/specialists/{task}" for task in told["order"]]
    if given is None:
        given = [recipe.start] if recipe.start is not None else []
    return [{"name": name, "sha256": identity(run_dir / name)} for name in given]
