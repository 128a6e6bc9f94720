"""A run's specialists merged by several methods and scales, and routed, beside what they come from."""

import io
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import make_world, teach
from rich.console import Console
from test_generalist import ADAPTER, APART, written

from continual import mergereport, routing
from continual.errors import ContinualError
from continual.mergereport import listed, merge_report
from continual.merges import MERGES
from continual.rehearse.writer import ModelWriter
from continual.report.merges import Found, picture
from continual.route import Choice, Router, load_router
from continual.runs import read_json, write_json


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run with specialists and its router."""
    world = make_world(tmp_path_factory.mktemp("world"))
    run = teach(world, arms={"specialists": APART, "multitask": {"teach": "multitask"}}, adapter=ADAPTER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ModelWriter, "write", written)
        routing.route(run, 8, "base", None, "test", None, None, [world / "tasks"], console())
    return run


def console() -> Console:
    return Console(file=io.StringIO(), width=120)


def measured(run: Path, methods: tuple[str, ...], scales: tuple[float, ...]) -> dict[str, Any]:
    merge_report(run, methods, scales, None, None, None, [run.parent / "tasks"], console())
    found: dict[str, Any] = read_json(run / "merge-report/report.json")
    return found


def test_the_router_is_fitted_on_what_was_written_and_measured(run: Path) -> None:
    router, told = load_router(run), read_json(run / "router/report.json")
    assert router.names == ("sound", "legs")
    assert router.pick("how many legs has the pig ?").adapter == "legs"
    assert set(told["tasks"]) == {"sound", "legs"} and told["split"] == "test"
    for one in told["tasks"].values():
        assert sum(one["picked"].values()) == one["prompts"]


def test_every_reference_row_is_there(run: Path) -> None:
    told = measured(run, ("linear", "ties"), (0.5, 1.0))
    kinds = [one["kind"] for one in told["references"]]
    assert kinds == ["base", "bound", "specialist", "specialist", "routed", "multitask", "control"]
    assert [one["method"] for one in told["merged"]] == ["linear", "ties"]
    results = read_json(run / "results.json")["arms"]
    by_name = {one["name"]: one["scores"] for one in told["references"]}
    assert list(by_name["base"].values()) == pytest.approx(results["multitask"]["runs"][0]["R"][0])
    own = results["specialists"]["runs"][0]["R"][1]
    assert list(by_name["specialists, own task"].values()) == pytest.approx(own)
    for one in told["merged"]:
        best = max(one["dev"], key=lambda point: point["mean"])
        assert one["scale"] == best["scale"]
    assert (run / "merge-report/scales.svg").read_text(encoding="utf-8").startswith("<svg")


def test_an_arm_that_did_not_reach_its_end_is_left_out(run: Path) -> None:
    folder = run / "arms/half/seed0"
    told = {
        "teach": "sequential",
        "steps": ["sound", "legs"],
        "tasks": ["sound", "legs"],
        "R": [[0.0, 0.0], [0.5, 0.2]],
    }

    def names(rows: list[list[float]]) -> list[str]:
        write_json(folder / "run.json", {**told, "R": rows})
        return [one["name"] for one in measured(run, ("linear",), (1.0,))["references"]]

    try:
        assert "arm half" not in names(told["R"])
        assert "arm half" in names([*told["R"], [0.4, 0.6]])
    finally:
        shutil.rmtree(folder.parent)


def test_what_was_measured_is_not_measured_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once = measured(run, ("linear",), (0.5, 1.0))
    monkeypatch.setattr(mergereport, "take", None)
    assert measured(run, ("linear",), (0.5, 1.0)) == once
    with pytest.raises(TypeError):
        measured(run, ("linear",), (0.7,))


def test_routed_rows_have_the_answers_of_who_was_picked(run: Path) -> None:
    told = measured(run, ("linear",), (1.0,))
    by_kind = {one["kind"]: one["scores"] for one in told["references"]}
    picked = read_json(run / "router/report.json")["tasks"]
    specialists = {one["name"]: one["scores"] for one in told["references"] if one["kind"] == "specialist"}
    for task in ("sound", "legs"):
        if picked[task]["picked"] == {task: picked[task]["prompts"]}:
            assert by_kind["routed"][task] == specialists[f"specialist {task}"][task]
        if picked[task]["picked"] == {"unsure": picked[task]["prompts"]}:
            assert by_kind["routed"][task] == by_kind["base"][task]


def test_who_answers_where_nobody_is_sure_answers_in_the_report_too(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Router, "pick", lambda self, prompt: Choice("multitask", False, {}, "not sure"))
    by_kind = {one["kind"]: one["scores"] for one in measured(run, ("linear",), (1.0,))["references"]}
    assert by_kind["routed"] == by_kind["multitask"] != by_kind["base"]


def test_other_rows_are_refused(run: Path) -> None:
    data = run.parent / "tasks/legs.train.jsonl"
    rows = data.read_text(encoding="utf-8")
    try:
        data.write_text(rows.replace("red", "raw"), encoding="utf-8")
        with pytest.raises(ContinualError, match="the rows of legs are not those"):
            measured(run, ("linear",), (1.0,))
    finally:
        data.write_text(rows, encoding="utf-8")


def test_a_method_for_fewer_adapters_is_refused_before_anything_is_measured(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MERGES, "slerp", replace(MERGES["slerp"], at_most=1))
    monkeypatch.setattr(mergereport, "gather", lambda *given: pytest.fail("the data was read"))
    with pytest.raises(ContinualError, match="--methods slerp: it merges 1 adapters only; here are 2"):
        measured(run, ("linear", "slerp"), (0.3,))


def test_specialists_that_share_a_start_are_refused(run: Path) -> None:
    file = run / "recipe.yaml"
    written = file.read_text(encoding="utf-8")
    try:
        file.write_text(written.replace("start: null", "start: elsewhere"), encoding="utf-8")
        with pytest.raises(ContinualError, match="count several times"):
            measured(run, ("linear",), (1.0,))
    finally:
        file.write_text(written, encoding="utf-8")


@pytest.mark.parametrize(
    ("methods", "scales", "said"),
    [("tiez", "", "ties"), ("regmean", "", "each specialist's data"), ("", "a,b", "numbers"), ("", "0,1", "larger")],
)
def test_wrong_lists_are_told(methods: str, scales: str, said: str) -> None:
    with pytest.raises(ContinualError, match=said):
        listed(methods, scales)


def test_lists_are_read() -> None:
    assert listed("ties, tsv", "2,0.5,2") == (("ties", "tsv"), (0.5, 2.0))


def test_the_picture_has_a_line_for_each_method_and_reference() -> None:
    scores = {0.5: {"a": 0.2, "b": 0.4}, 2.0: {"a": 0.1, "b": 0.1}}
    drawn = picture([Found("ties", 0.5, 1.0, scores, {"a": 0.2, "b": 0.4})], {"base": 0.05})
    assert "ties, scale 0.5: 30.0 %" in drawn.body and ">base</text>" in drawn.body
    assert picture([Found("ties", 0.5, 1.0, {0.5: scores[0.5]}, scores[0.5])], {"base": 0.05}).width > 0


def test_a_run_that_cannot_be_routed_says_why(world: Path) -> None:
    with pytest.raises(ContinualError, match="no specialists"):
        routing.route(teach(world), 8, "base", None, "none", None, None, (), console())
    plain = teach(world, fresh=True, arms={"apart": {"teach": "specialists"}}, adapter=ADAPTER)
    with pytest.raises(ContinualError, match="rehearsal"):
        routing.route(plain, 8, "base", None, "none", None, None, (), console())
    with pytest.raises(ContinualError, match="no such model"):
        routing.route(plain, 8, "nobody", None, "none", None, None, (), console())


def test_where_specialists_cannot_write_the_rehearsing_arm_does(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arms = {"apart": {"teach": "specialists"}, "rehearsal": {"rehearsal": {"max_tries": 1}}}
    run = teach(world, arms=arms, adapter=ADAPTER)
    monkeypatch.setattr(ModelWriter, "write", written)
    routing.route(run, 6, "rehearsal", None, "none", None, None, (), console())
    assert [path.name for path in (run / "router/written").iterdir()] == ["rehearsal-seed0-6"]
    assert load_router(run).pick("nothing that anybody knows").adapter == "rehearsal"
