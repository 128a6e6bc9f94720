"""Every method is documented, and every strategy of Avalanche is either a method or refused with a reason."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import recipe
from pydantic import ValidationError

from continual.catalogue import METHODS, REFUSED
from continual.merges import MERGES

PAGE = (Path(__file__).parent.parent / "docs/methods.md").read_text(encoding="utf-8")

NOT_STRATEGIES = {
    "LRSchedulerPlugin",
    "EarlyStoppingPlugin",
    "EvaluationPlugin",
    "SupervisedPlugin",
    "BaseSGDPlugin",
    "MetaLearningPlugin",
    "BasePlugin",
    "CheckpointPlugin",
    "RNGManager",
}
"""What else Avalanche's plugins are: parts of its loop."""

NAMES = {
    "synaptic_intelligence": "si",
    "lw_f": "lwf",
    "co_pe": "cope",
    "bi_c": "bic",
    "pack_net": "packnet",
    "pnn_strategy": "pnn",
    "i_ca_rl": "icarl",
    "learning_to_prompt": "l2p",
    "streaming_lda": "slda",
    "expert_gate_strategy": "expert_gate",
    "from_scratch_training": "from_scratch",
    "r_walk": "rwalk",
    "g_dumb": "gdumb",
    "cwr_star": "cwr_star",
    "train_generator_after_exp": "generative_replay",
    "current_data_ncm_update": "ncm",
    "memory_ncm_update": "ncm",
    "ncm_oracle": "ncm",
    "current_data_fe_cam_update": "fecam",
    "memory_fe_cam_update": "fecam",
    "fe_cam_oracle": "fecam",
}
"""Where the name of a class, in small letters, is not what a recipe says."""


def classes() -> list[str]:
    """Every strategy and plugin that Avalanche exports."""
    from continual.guard import guard

    guard()
    import inspect

    from avalanche.core import BasePlugin
    from avalanche.training import plugins, supervised
    from avalanche.training.templates import SupervisedTemplate

    found = [
        name
        for module in (plugins, supervised)
        for name, cls in vars(module).items()
        if inspect.isclass(cls) and issubclass(cls, BasePlugin | SupervisedTemplate)
    ]
    return sorted({name for name in found if not name.startswith("_")} - NOT_STRATEGIES - {"SupervisedTemplate"})


def recipe_name(cls: str) -> str:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.removesuffix("Plugin")).lower()
    words = words.replace("__", "_")
    return NAMES.get(words, words)


def test_every_strategy_of_avalanche_is_a_method_or_refused() -> None:
    found = classes()
    assert len(found) > 40
    assert not [f"{cls} ({recipe_name(cls)})" for cls in found if recipe_name(cls) not in {*METHODS, *REFUSED}]


def told(name: str, **more: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        recipe(Path("x"), arms={"mine": {"method": name, **more}})
    return str(caught.value)


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_strategy_is_told_with_its_reason(name: str) -> None:
    assert f"method: '{name}' {REFUSED[name]}" in told(name)
    assert name not in METHODS


def test_a_name_in_other_letters_is_understood() -> None:
    assert REFUSED["er_ace"] in told("ER-ACE")
    assert "unknown method 'EWC'; did you mean 'ewc'?" in told("EWC")


def test_arguments_are_checked_by_the_name_that_a_recipe_uses() -> None:
    assert "unknown key; did you mean 'lambda'?" in told("ewc", method_args={"lambd": 3})
    assert "unknown key; did you mean 'lambda'?" in told("ewc", method_args={"lambda_": 3})
    assert "greater than or equal to 0" in told("mas", method_args={"lambda": -1})


def line_of(key: str) -> str:
    (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{key}` |")]
    return line


@pytest.mark.parametrize("name", METHODS)
def test_each_method_stands_in_the_page_with_its_arguments(name: str) -> None:
    assert METHODS[name].source.removeprefix("arXiv ") in line_of(name)
    for field_name, field in METHODS[name].arguments.model_fields.items():
        line = line_of(f"{name}.{field.alias or field_name}")
        default = "required" if field.is_required() else json.dumps(field.default)
        # A text of several lines is told in words.
        assert line.split(" | ")[1] == default or "\\n" in default


def test_each_refused_strategy_stands_in_the_page() -> None:
    assert not [name for name in REFUSED if f"`{name}`" not in PAGE]


MERGING = (Path(__file__).parent.parent / "docs/merging.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", MERGES)
def test_the_page_on_merging_names_every_method_with_its_weights_and_arguments(name: str) -> None:
    (line,) = [line for line in MERGING.splitlines() if line.startswith(f"| `{name}` |")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2] == MERGES[name].weights
    assert set(re.findall(r"`(\w+)`", cells[3])) == set(MERGES[name].arguments.model_fields)


@pytest.mark.parametrize("known", MERGES.values(), ids=MERGES)
def test_the_page_on_merging_says_the_default_of_every_argument(known: Any) -> None:
    for argument, field in known.arguments.model_fields.items():
        assert f"| `{argument}` | {field.default} |" in MERGING
