"""General ability: perplexity by hand, scores of tasks that are never taught, and where they are told."""

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from conftest import recipe, teach
from fake_run import write_arm, write_run
from pydantic import ValidationError
from rich.console import Console

from continual import general, report, results
from continual.chat import Chat
from continual.errors import ContinualError
from continual.perplexity import Window, perplexity, read, windows
from continual.recipe import load_recipe
from continual.runs import read_json


def test_windows_do_not_overlap_and_give_each_token_once() -> None:
    assert windows([5, 6, 7, 8, 9], [], 2) == [Window([5], [6]), Window([7], [8])]
    assert windows([5, 6, 7], [1], 3) == [Window([1], [5, 6]), Window([1], [7])]
    assert windows([5], [], 4) == [] and windows([5], [1], 4) == [Window([1], [5])]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_perplexity_is_that_of_full_logits(architecture: str) -> None:
    model, chat = tiny.model(architecture), Chat(tiny.tokenizer())
    text = [Window([7], [8, 9, 10]), Window([11, 12], [13])]
    losses = []
    for window in text:
        logits = model(torch.tensor([[*window.before, *window.ids]])).logits[0].detach().log_softmax(-1)
        first = len(window.before) - 1
        losses += [-float(logits[first + n, token]) for n, token in enumerate(window.ids)]
    assert len(losses) == 4
    assert perplexity(model, text, chat, 999) == pytest.approx(math.exp(sum(losses) / 4), rel=1e-5)


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary() -> None:
    model = tiny.model()
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    assert perplexity(model, [Window([7], [8, 9])], Chat(tiny.tokenizer()), 999) == pytest.approx(300, rel=1e-5)


def test_text_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    chat = Chat(tiny.tokenizer())
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for name, said in (("none.txt", "cannot be read"), ("bytes", "cannot be read"), ("empty.txt", "no text")):
        with pytest.raises(ContinualError, match=rf"evaluate.perplexity: .*{name}.*{said}"):
            read(str(tmp_path / name), chat, 8)


def test_delta_is_the_mean_change_against_row_0() -> None:
    # TRACE's form: 1/M * sum of (row t - row 0)
    base = {"perplexity": 10.0, "scores": {"a": 0.5, "b": 0.2}}
    later = {"perplexity": 12.5, "scores": {"a": 0.3, "b": 0.3}}
    rows = general.told(["base", "x", "specialists"], [base, later, None])
    assert rows[0]["delta"] == 0 and rows[0]["perplexity_change"] == 0
    assert rows[1]["delta"] == pytest.approx(-0.05) and rows[1]["perplexity_change"] == pytest.approx(2.5)
    assert (rows[2]["delta"], rows[2]["perplexity"], rows[2]["scores"]) == (None, None, {})
    assert general.told(["base", "x"], [None, None]) == []


@pytest.fixture
def measured(world: Path) -> Path:
    """A run that examines `first`, which it never teaches, and neutral text."""
    (world / "neutral.txt").write_text("the red dog sees a small cat. " * 12)
    arms = {"rehearsal": {"rehearsal": {"max_tries": 2}}, "alone": {"teach": "specialists"}}
    evaluate = {"limit": 8, "general": ["first"], "perplexity": str(world / "neutral.txt")}
    return teach(world, arms=arms, adapter={"r": 2}, evaluate=evaluate)


def test_it_is_measured_after_every_row_and_no_column_of_R(measured: Path, world: Path) -> None:
    from continual.model import load_adapter, load_model, load_tokenizer

    run = results.collect(measured)["arms"]["rehearsal"]["runs"][0]
    assert [len(row) for row in run["R"]] == [2, 2, 2]
    assert [row["after"] for row in run["general"]] == ["base", "sound", "legs"]
    assert all(set(row["scores"]) == {"first"} and row["perplexity"] > 1 for row in run["general"])
    told = read_json(measured / "arms/rehearsal/seed0/run.json")
    assert told["tasks"] == told["order"] == ["sound", "legs"]
    # Rows 0 and 2 are what the models of these rows say.
    chat = Chat(load_tokenizer(str(world / "model")))
    text = read(str(world / "neutral.txt"), chat, 48)
    base = load_model(str(world / "model"))
    assert run["general"][0]["perplexity"] == pytest.approx(perplexity(base, text, chat, 9999), rel=1e-6)
    last = load_adapter(base, measured / "arms/rehearsal/seed0/after/2")
    assert run["general"][2]["perplexity"] == pytest.approx(perplexity(last, text, chat, 9999), rel=1e-6)
    assert run["general"][2]["perplexity"] != run["general"][0]["perplexity"]
    alone = results.collect(measured)["arms"]["alone"]["runs"][0]
    assert alone["general"][1]["perplexity"] is None and alone["general"][0] == run["general"][0]


def test_the_report_shows_it(measured: Path) -> None:
    page = report.page([measured])
    assert 'id="general"' in page and "first" in page
    out = io.StringIO()
    report.tables(results.collect(measured), Console(file=out, width=150))
    assert "General ability" in out.getvalue() and "(×" in out.getvalue()


def test_a_report_without_it_says_nothing_of_it(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"x": "sequential"}, ["a"])
    write_arm(run, "x", [[0.1], [0.9]], tasks=["a"])
    assert 'id="general"' not in report.page([run])
    run = write_run(tmp_path / "scores", {"x": "sequential"}, ["a"])
    write_arm(run, "x", [[0.1], [0.9]], tasks=["a"], general=[{"perplexity": None, "scores": {"g": 0.5}}] * 2)
    out = io.StringIO()
    report.tables(results.collect(run), Console(file=out, width=150))
    assert 'id="general"' in report.page([run]) and "50.0 → 50.0" in out.getvalue()
    assert "<th>perplexity</th>" not in report.page([run]) and "perplexity" not in out.getvalue()


def test_the_report_averages_over_runs(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"x": "sequential"}, ["a"], seeds=[0, 1])
    for seed, end in ((0, 20.0), (1, 40.0)):
        measured = [{"perplexity": 10.0, "scores": {"g": 0.5}}, {"perplexity": end, "scores": {"g": 0.4}}]
        write_arm(run, "x", [[0.1], [0.9]], tasks=["a"], seed=seed, general=measured)
    out = io.StringIO()
    report.tables(results.collect(run), Console(file=out, width=150))
    assert "10 → 30 (× 3.00)" in out.getvalue() and "50.0 → 40.0" in out.getvalue() and "−10.0" in out.getvalue()
    assert "10 → 30 (× 3.00)" in report.page([run])


def test_a_run_that_dies_measures_the_same(measured: Path, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from test_resume import Killed, die_at

    def told(run: Path) -> Any:
        return read_json(run / "arms/rehearsal/seed0/run.json")["general"]

    settings = {
        "arms": {"rehearsal": {"rehearsal": {"max_tries": 2}}},
        "adapter": {"r": 2},
        "evaluate": {"limit": 8, "general": ["first"], "perplexity": str(world / "neutral.txt")},
        "output_dir": str(world / "other"),
    }
    for nth in (4, 6, 8):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            die_at(patch, nth)
            teach(world, **settings)
    assert told(teach(world, **settings)) == told(measured)


def test_a_run_is_not_resumed_on_other_neutral_text(measured: Path, world: Path) -> None:
    (world / "neutral.txt").write_text("other words")
    evaluate = {"limit": 8, "general": ["first"], "perplexity": str(world / "neutral.txt")}
    arms = {"rehearsal": {"rehearsal": {"max_tries": 2}}, "alone": {"teach": "specialists"}}
    with pytest.raises(ContinualError, match="the rows of the neutral text are not those"):
        teach(world, arms=arms, adapter={"r": 2}, evaluate=evaluate)


def test_what_is_taught_shows_no_general_ability(world: Path) -> None:
    with pytest.raises(ValidationError, match="'legs' is in the curriculum"):
        recipe(world, evaluate={"general": ["first", "legs"]})
    with pytest.raises(ValidationError, match="there twice"):
        recipe(world, evaluate={"general": ["first", "first"]})


def test_a_recipe_names_tasks_and_a_text_that_exist(world: Path) -> None:
    data = recipe(world).resolved()
    data["evaluate"] |= {"general": ["frist"], "perplexity": "no.txt"}
    (world / "r.yaml").write_text(json.dumps(data))
    with pytest.raises(ContinualError) as caught:
        load_recipe(str(world / "r.yaml"), folders=[world / "tasks"])
    assert "evaluate.general[0]: unknown task 'frist'" in str(caught.value).replace("general.0", "general[0]")
    assert "there is no file no.txt here" in str(caught.value)


def test_a_dry_run_counts_its_answers(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from continual import plan

    out = io.StringIO()
    console = Console(file=out, width=150)
    plan.describe(recipe(world, evaluate={"limit": 8, "general": ["first"]}), None, [world / "tasks"], console)
    assert "first (8 test rows)" in out.getvalue() and "24 answers of the untaught base" in out.getvalue()
