"""A setting that no code reads would be a promise that nobody keeps."""

import ast
import inspect
import types
from pathlib import Path
from typing import Union, get_args, get_origin

import pytest
from pydantic import BaseModel

import continual
from continual.recipe import Recipe
from continual.settings import Adapter, Quantization

PACKAGE = Path(continual.__file__).parent
SCHEMA = (
    "settings.py", "rehearsal_settings.py", "stream_settings.py", "evaluate_settings.py", "guard_settings.py",
    "remembered.py", "recipe.py",
)  # fmt: skip
PLAN = ("plan.py", "estimate.py", "listing.py", "cli.py", "card.py", "results.py", "report")
"""These only tell of a run: what they alone read changes nothing."""


def models_below(annotation: object) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        below = [models_below(field.annotation) for field in annotation.model_fields.values()]
        return {annotation}.union(*below)
    if get_origin(annotation) in (Union, types.UnionType, dict, list, tuple) or get_args(annotation):
        return set().union(*(models_below(one) for one in get_args(annotation)))
    return set()


def reads(path: Path) -> set[str]:
    """Names that are read as attributes."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}


READ = {
    name
    for path in PACKAGE.rglob("*.py")
    if path.name not in (*SCHEMA, *PLAN) and path.parent.name not in PLAN
    for name in reads(path)
}

# Settings that decide in the schema itself what other settings or runs are.
DECIDES = {
    ("Rehearsal", "preset"): "sets other keys",
    ("Recipe", "seeds"): "plan.expand makes a run for each",
    ("Recipe", "sweep"): "plan.expand makes a run for each point",
    ("CurriculumEntry", "num_train_epochs"): "Recipe.training_of puts it into the training of the task",
    ("Arm", "training"): "Recipe.training_of puts it into the training of the arm",
}

SETTINGS = [
    (model.__name__, name)
    for model in sorted(models_below(Recipe), key=lambda model: model.__name__)
    for name in model.model_fields
]


def test_the_walk_finds_the_whole_schema():
    assert {model for model, _ in SETTINGS} == {
        "Adapter", "Arm", "CurriculumEntry", "Distill", "Evaluate", "ForeignPlugin", "Guard", "Quantization", "Recipe",
        "Rehearsal", "Remembered", "Stream", "Training",
    }  # fmt: skip


@pytest.mark.parametrize(("model", "name"), SETTINGS, ids=[f"{model}.{name}" for model, name in SETTINGS])
def test_every_setting_is_read(model: str, name: str):
    if (model, name) not in DECIDES and model not in ("Adapter", "Quantization"):
        assert name in READ, f"nothing under continual/ reads {model}.{name}"


def test_what_a_setting_decides_in_the_plan_is_read_there():
    read = reads(PACKAGE / "plan.py") | reads(PACKAGE / "recipe.py")
    assert {"seeds", "sweep", "training", "curriculum"} <= read


def test_peft_knows_every_key_of_an_adapter():
    # The whole adapter is handed to LoraConfig; `type` alone says which class that is.
    from continual.guard import guard

    guard()
    from peft import LoraConfig

    assert set(Adapter.model_fields) - {"type"} <= set(LoraConfig.__dataclass_fields__)


def test_bitsandbytes_knows_every_key_of_a_quantization():
    from continual.guard import guard

    guard()
    from transformers import BitsAndBytesConfig

    assert set(Quantization.model_fields) <= set(inspect.signature(BitsAndBytesConfig).parameters)


def test_what_nobody_reads_would_be_noticed():
    assert "a_setting_that_nobody_reads" not in READ
