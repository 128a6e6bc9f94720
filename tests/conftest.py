"""Small worlds for the tests: two tiny tasks, a tiny model, a recipe over them."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from continual.guard import guard

# Two shared cores: more threads only fight. Set before torch is imported by any test.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
# Tests compare digits, and hand tensors of their own to the model: they are of the CPU, also where there is a GPU.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

# The process that only collects what the workers tell imports peft too, when one tells it of a warning of peft's.
guard()

ANIMALS = ["dog", "cat", "cow", "hen", "fox", "bee", "ant", "owl"]


@pytest.fixture(autouse=True)
def weights_are_tied() -> Iterator[None]:
    """What a test that loads models in two threads may leave behind in transformers, see `load_model`."""
    loaded = sys.modules.get("transformers.modeling_utils")
    before = loaded.PreTrainedModel.tie_weights if loaded else None
    yield
    if loaded and before.__name__ == "tie_weights":
        loaded.PreTrainedModel.tie_weights = before


def write_task(folder: Path, name: str, answers: dict[str, str], labels: bool = False, **more: Any) -> None:
    """A task file with its rows: every animal of some colour, and what is to be said of it."""
    folder.mkdir(parents=True, exist_ok=True)
    colours = ["red", "big", "old", "new", "shy", "sad"]
    rows = [{"text": f"{c} {a}", "label": answers[a]} for c in colours for a in ANIMALS]
    for split, part in (("train", rows[:36]), ("test", rows[36:])):
        lines = "".join(json.dumps(row) + "\n" for row in part)
        (folder / f"{name}.{split}.jsonl").write_text(lines, encoding="utf-8")
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {s: f"{name}.{s}.jsonl" for s in ("train", "test")}},
        "training_split": "train",
        "test_split": "test",
        "output_type": "generate_until",
        "generation_kwargs": {"max_gen_toks": 6},
        "doc_to_text": "{{ text }}",
        "doc_to_target": "{{ label }}",
        "metric_list": [{"metric": "exact_match"}],
        "metadata": {"version": 1.0, **({"labels": sorted(set(answers.values()))} if labels else {})},
        **more,
    }
    import yaml

    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")


def make_world(folder: Path) -> Path:
    """A folder with a tiny model and three tiny tasks."""
    import tiny

    tiny.saved(folder / "model", template=True)
    tasks = folder / "tasks"
    # Half right counts: cells that are all zero or one would hide that two runs differ.
    graded = {"metric_list": [{"metric": "edit_similarity"}]}
    write_task(tasks, "sound", {a: a[::-1] for a in ANIMALS}, **graded)
    write_task(tasks, "legs", {a: "six" if a in ("bee", "ant") else "two" for a in ANIMALS}, labels=True)
    write_task(tasks, "first", {a: a[0] for a in ANIMALS}, **graded)
    return folder


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A world of one test's own."""
    return make_world(tmp_path)


def recipe(world: Path, **changes: Any) -> Any:
    """A recipe over the tiny tasks."""
    from continual.recipe import Recipe

    data = {
        "model_name_or_path": str(world / "model"),
        "curriculum": ["sound", "legs"],
        "training": {"learning_rate": 1e-2, "num_train_epochs": 2, "tokens_per_batch": 128, "max_length": 48},
        "arms": {"rehearsal": {"teach": "sequential", "rehearsal": {"ratio": 0.2, "max_tries": 2}}},
        "evaluate": {"limit": 8},
        "output_dir": str(world / "run"),
        **changes,
    }
    return Recipe.model_validate(data)


def teach(world: Path, fresh: bool = False, **changes: Any) -> Path:
    """Run a recipe over the tiny tasks to its end."""
    import io

    from rich.console import Console

    from continual import execute

    return execute.run(
        recipe(world, **changes),
        data_root=None,
        task_folders=[world / "tasks"],
        fresh=fresh,
        console=Console(file=io.StringIO()),
    )
