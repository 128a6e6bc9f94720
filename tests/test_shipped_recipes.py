from itertools import takewhile
from pathlib import Path

import pytest
import yaml

from continual.listing import validate
from continual.recipe import Recipe, load_recipe, shipped_recipes
from continual.rehearsal_settings import Rehearsal

SHIPPED = shipped_recipes()


def teaching() -> list[Path]:
    return [path for path in SHIPPED if "pretrain" not in yaml.safe_load(path.read_text(encoding="utf-8"))]


def test_all_of_them_are_shipped():
    names = {"quickstart", "lamol-sst-srl-woz", "textclass-5", "olora15", "trace", "glue", "stream", "tinyworld-base"}
    names |= {"generalist", "chat"}
    assert names == {path.stem for path in SHIPPED}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_recipe_is_right(path: Path):
    assert "recipe" in validate(path.stem)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_its_header_says_what_it_is_and_how_to_run_it(path: Path):
    header = list(takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines()))
    assert header[0].removeprefix("# ")[0].isupper(), "`continual ls` shows the first line"
    assert any(f"continual {word} {path.stem}" in "".join(header) for word in ("run", "pretrain"))


@pytest.mark.parametrize("path", teaching(), ids=lambda path: path.stem)
def test_it_has_lower_and_upper_bound_and_writes_where_its_name_says(path: Path):
    recipe = load_recipe(path.stem)
    arms = recipe.arms.values()
    if any(arm.teach in ("merge", "distill") for arm in arms):  # the specialists are what it is measured by
        assert any(arm.teach == "specialists" for arm in arms)
    else:
        assert any(arm.teach == "sequential" and arm.rehearsal is None for arm in arms)
        assert any(arm.rehearsal is not None and arm.rehearsal.writer == "model" for arm in arms)
    assert any(arm.teach == "multitask" for arm in arms)
    assert recipe.output_dir == f"runs/{path.stem}"
    assert Recipe.model_validate(recipe.resolved()).resolved() == recipe.resolved()


def test_the_headers_sweeps_are_orders_of_the_curriculum():
    for path in teaching():
        text = path.read_text(encoding="utf-8")
        if "'sweep=" not in text:
            continue
        header = "\n".join(line.lstrip("# ") for line in text.split("'sweep=")[1].split("\n\n")[0].splitlines())
        sweep = header.split("}'")[0] + "}"
        assert len(load_recipe(path.stem, [f"sweep={sweep}"]).sweep["curriculum"]) >= 2


def test_the_real_comparison_learns_from_enough_rows():
    recipe = load_recipe("lamol-sst-srl-woz", ["model_name_or_path=some/model"])
    assert recipe.model_name_or_path == "some/model"
    assert recipe.adapter is None
    assert list(recipe.arms) == [
        *("finetune", "lamol", "rehearsal", "real_replay", "plain_replay", "multitask"),
    ]
    assert recipe.arms["lamol"].rehearsal.preset == "lamol"
    assert all(recipe.training_of("lamol", task).max_samples >= 1000 for task in recipe.tasks)
    assert recipe.evaluate.limit is None


def bounded() -> list[Path]:
    studies = sorted((Path(__file__).parents[1] / "benchmarks" / "studies").glob("*.yaml"))
    return [path for path in (*teaching(), *studies) if "real_replay:" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", bounded(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_bound_of_real_rows_differs_from_rehearsal_in_its_rows_alone(path: Path):
    arms = yaml.safe_load(path.read_text(encoding="utf-8"))["arms"]
    ours, real, plain = (Rehearsal(**arms[name]["rehearsal"]) for name in ("rehearsal", "real_replay", "plain_replay"))
    # How long a written sample may be says nothing of stored rows.
    alike = ours.model_copy(update={"writer": "real", "max_new_tokens": None})
    assert real == alike and real.distill is not None and real.fresh
    assert plain == alike.model_copy(update={"distill": None, "fresh": False})


def test_there_are_bounds_in_recipes_and_studies():
    assert {path.parent.name for path in bounded()} == {"recipes", "studies"}
    assert len(bounded()) == 10
