"""A curriculum whose tasks are not announced: how it is cut, what arms may ask, what R and its figures are."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import recipe, teach
from fake_run import write_arm, write_run
from pydantic import ValidationError
from rich.console import Console
from test_plan import BASE, SIZES
from test_plan import recipe as planned

from continual import estimate, forgetting, report, results, stream
from continual.errors import ContinualError
from continual.recipe import Recipe
from continual.runs import read_json

ARM = {"rehearsal": {"ratio": 0.3, "max_tries": 2}}


# How it is cut


def test_chunks_differ_by_one_row_and_tasks_straddle_them() -> None:
    # a: rows 0-4, b: rows 5-9, c: row 10
    assert stream.bounds(11, 3) == [0, 3, 7, 11]
    assert stream.cut({"a": 5, "b": 5, "c": 1}, 3) == [{"a": 3}, {"a": 2, "b": 2}, {"b": 3, "c": 1}]
    assert stream.spans([5, 5, 1], 3) == [(1, 2), (2, 3), (3, 3)]
    assert stream.spans([4, 4], 2) == [(1, 1), (2, 2)]
    assert stream.spans([4, 4], 1) == [(1, 1), (1, 1)]
    assert stream.names(2) == ["chunk 1", "chunk 2"]


def test_a_chunk_needs_a_row() -> None:
    with pytest.raises(ContinualError, match="4 chunks of 3 training rows"):
        stream.bounds(3, 4)


# The figures

R = [[0.0, 0.1, 0.2], [0.5, 0.1, 0.2], [0.9, 0.4, 0.3], [0.6, 0.8, 0.3], [0.3, 0.6, 0.7]]
SPANS = [(1, 2), (2, 3), (4, 4)]


def test_figures_are_read_where_tasks_begin_and_end() -> None:
    told = forgetting.figures(R, "abc", "abc", [0.9, 0.9, 0.9], [1.0, 1.0, 1.0], spans=SPANS)
    assert told["acc"] == pytest.approx((0.3 + 0.6 + 0.7) / 3)
    assert told["learning_acc"] == pytest.approx((0.9 + 0.8 + 0.7) / 3)  # rows 2, 3, 4
    assert told["bwt"] == pytest.approx(((0.3 - 0.9) + (0.6 - 0.8)) / 2)
    assert told["forgetting"] == pytest.approx(((0.9 - 0.3) + (0.8 - 0.6)) / 2)
    # b began in chunk 2: row 1; c in chunk 4: row 3. a began in the first: nothing came before it
    assert told["fwt"] == pytest.approx(((0.1 - 0.1) + (0.3 - 0.2)) / 2)
    so_far = [0.5, (0.9 + 0.4) / 2, (0.6 + 0.8) / 2, (0.3 + 0.6 + 0.7) / 3]
    assert told["average_incremental_acc"] == pytest.approx(sum(so_far) / 4)
    assert told["intransigence"] == pytest.approx((0.0 + 0.1 + 0.2) / 3)
    assert told["gap_to_specialists"] == pytest.approx((0.1 + 0.2 + 0.3) / 3)


def test_a_task_that_ends_with_the_stream_is_not_forgotten() -> None:
    assert forgetting.bwt(R, [(1, 4), (1, 4), (2, 4)]) is None
    assert forgetting.forgetting(R, [(1, 4), (1, 4), (2, 4)]) is None
    assert forgetting.fwt(R, [(1, 4), (1, 4), (1, 4)]) is None


def test_tasks_one_by_one_are_the_spans_of_the_usual_figures() -> None:
    square = [[0.0, 0.1, 0.0], [0.9, 0.1, 0.0], [0.4, 0.8, 0.1], [0.2, 0.3, 0.7]]
    one_by_one = [(1, 1), (2, 2), (3, 3)]
    bound = [0.9, 0.9, 0.6]
    plain = forgetting.figures(square, "abc", "abc", bound, bound)
    assert forgetting.figures(square, "abc", "abc", bound, bound, spans=one_by_one) == plain


@pytest.mark.parametrize("spans", [[(1, 2)], [(1, 2), (2, 3), (4, 5)], [(0, 1), (2, 3), (4, 4)]])
def test_spans_that_do_not_fit_are_an_error(spans: Any) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        forgetting.bwt(R, spans)


# What arms may ask


def test_what_was_not_set_fits_a_stream(world: Path) -> None:
    made = recipe(world, stream={"chunks": 3}, arms={"x": ARM, "y": {"teach": "multitask"}})
    rehearsal = made.arms["x"].rehearsal
    assert rehearsal.cue == "shared" and rehearsal.checks == ("eos", "parses", "non_empty", "duplicate")
    assert Recipe.model_validate(made.resolved()).resolved() == made.resolved()
    assert recipe(world, arms={"x": ARM}).arms["x"].rehearsal.cue == "task"
    data = made.resolved()
    del data["arms"]
    assert Recipe.model_validate(data).arms["rehearsal"].rehearsal.cue == "shared"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("cue", "task", "set cue: shared"),
        ("cue", "label", "set cue: shared"),
        ("preset", "lamol", "set cue: shared"),
        ("checks", ["parses", "wrong_task"], "wrong_task would need the task"),
        ("checks", ["label"], "label would need the task"),
        ("budget", "surprise", "nothing to share"),
        ("when", "after_task", "all before it"),
    ],
)
def test_what_needs_the_name_of_a_task_is_refused(world: Path, key: str, value: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        recipe(world, stream={"chunks": 3}, arms={"x": {"rehearsal": {"when": "before_task", key: value}}})
    recipe(world, arms={"x": {"rehearsal": {"when": "before_task", key: value}}})


def test_a_task_whose_data_is_gone_cannot_be_cut(world: Path) -> None:
    known = {"rows": 9, "labels": [], "delimiter": " ", "before": "", "after": "", "metric": "exact_match"}
    known |= {"multiple_choice": False, "max_gen_toks": 6, "until": []}
    with pytest.raises(ValidationError, match="the data of old is gone, and cannot be cut"):
        recipe(world, stream={"chunks": 3}, curriculum=[{"task": "old", "remembered": known}, "sound"])


def test_lamols_unbound_is_its_preset_with_a_shared_cue(world: Path) -> None:
    arms = {"x": {"rehearsal": {"preset": "lamol", "cue": "shared"}}}
    assert recipe(world, stream={"chunks": 3}, arms=arms).arms["x"].rehearsal.checks == ("parses",)


def test_specialists_cannot_be_asked_and_tasks_have_no_epochs_of_their_own(world: Path) -> None:
    asking = {"s": {"teach": "specialists"}, "x": {"rehearsal": {"relabel": "specialist"}}}
    with pytest.raises(ValidationError, match="which specialist"):
        recipe(world, stream={"chunks": 3}, adapter={}, arms=asking)
    with pytest.raises(ValidationError, match="legs cannot have num_train_epochs"):
        recipe(world, stream={"chunks": 3}, curriculum=["sound", {"task": "legs", "num_train_epochs": 1}])


# A run


def test_a_stream_is_taught_to_its_end(world: Path) -> None:
    arms = {"finetune": {}, "rehearsal": ARM, "multitask": {"teach": "multitask"}}
    run = teach(world, stream={"chunks": 3}, curriculum=["sound", {"task": "legs", "max_samples": 11}], arms=arms)
    told = results.collect(run)
    one = told["arms"]["rehearsal"]["runs"][0]
    assert one["after"] == ["base", "chunk 1", "chunk 2", "chunk 3"] and one["steps"] == one["after"][1:]
    assert told["tasks"] == one["order"] == ["sound", "legs"] and [len(row) for row in one["R"]] == [2] * 4
    # 33 + 11 rows in chunks of 14, 15, 15: sound ends in the third
    assert one["spans"] == [[1, 3], [3, 3]]
    assert one["figures"]["bwt"] is None and one["figures"]["acc"] == pytest.approx(sum(one["R"][3]) / 2)
    # ratio x rows seen so far, under one name
    wanted = [(e["before"], e["task"], e["wanted"]) for e in one["rehearsed"]]
    assert wanted == [("chunk 2", "past", 10), ("chunk 3", "past", 18)]  # ceil(0.3 * 14), ceil(0.3 * 29), twice
    assert one["cost"]["real_rows_kept"] == 0 and one["cost"]["generated_tokens"] > 0
    files = sorted(p.name for p in (run / "arms/rehearsal/seed0/rehearsed").iterdir())
    assert files == ["2-past.jsonl", "3-past.jsonl"]
    multitask = told["arms"]["multitask"]["runs"][0]
    assert multitask["after"] == ["base", "all"] and multitask["spans"] is None
    out = io.StringIO()
    report.tables(told, Console(file=out, width=150))
    assert "chunk 3" in out.getvalue() and "chunk 3" in report.page([run])


def test_each_row_is_learned_in_its_chunk_and_never_again(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from continual.learn import CausalLMTemplate

    learned: list[list[tuple[int, ...]]] = []
    make = CausalLMTemplate.make_train_dataloader

    def keeping(self: Any, **kwargs: Any) -> None:
        data = self.adapted_dataset
        real = [n for n, mark in enumerate(data.rehearsed) if not mark]
        learned.append([tuple(int(i) for i in data[n]["input_ids"]) for n in real])
        make(self, **kwargs)

    monkeypatch.setattr(CausalLMTemplate, "make_train_dataloader", keeping)
    teach(world, stream={"chunks": 4}, arms={"rehearsal": ARM})
    assert [len(chunk) for chunk in learned] == [16, 17, 16, 17]
    rows = [row for chunk in learned for row in chunk]
    learned.clear()
    teach(world, arms={"rehearsal": ARM}, output_dir=str(world / "announced"))
    sound, legs = learned
    assert rows == sound + legs and len(sound) == len(legs) == 33


def test_chunks_that_are_the_tasks_teach_the_same(world: Path) -> None:
    arms = {"finetune": {}, "real": {"rehearsal": {"writer": "real", "cue": "shared"}}}
    plain = teach(world, arms=arms, output_dir=str(world / "plain"))
    cut = teach(world, arms=arms, stream={"chunks": 2}, output_dir=str(world / "cut"))
    told, other = (results.collect(run)["arms"] for run in (plain, cut))
    assert told["finetune"]["runs"][0]["R"] == other["finetune"]["runs"][0]["R"]
    assert told["finetune"]["runs"][0]["figures"] == other["finetune"]["runs"][0]["figures"]
    assert other["real"]["runs"][0]["cost"]["real_rows_kept"] == told["real"]["runs"][0]["cost"]["real_rows_kept"]


def test_a_memory_of_real_rows_is_kept_by_chunk(world: Path) -> None:
    arms = {"real": {"rehearsal": {"writer": "real", "ratio": 0.25}}}
    run = teach(world, stream={"chunks": 3}, arms=arms)  # 66 rows: 22 each, 6 of which are kept for each of two epochs
    told = read_json(run / "arms/real/seed0/run.json")
    entries = [(e["before"], e["task"], e["kept"]) for e in told["rehearsed"]]
    assert entries == [("chunk 2", "chunk 1", 12), ("chunk 3", "chunk 1", 12), ("chunk 3", "chunk 2", 12)]
    assert told["cost"]["real_rows_kept"] == 24


def test_a_chunk_in_which_no_task_ends_has_its_row_all_the_same(world: Path) -> None:
    settings = {"stream": {"chunks": 4}, "arms": {"rehearsal": ARM}, "evaluate": {"limit": 8, "after": "own_and_last"}}
    run = teach(world, **settings)  # sound ends in the second, legs in the fourth
    told = read_json(run / "arms/rehearsal/seed0/run.json")
    known = [[cell is not None for cell in row] for row in told["R"]]
    assert known == [[True, True], [False, False], [True, False], [False, False], [True, True]]
    trained = [read_json(run / f"arms/rehearsal/seed0/after/{n}/trained.json") for n in (4,)]
    assert told["rows"][1:] == told["steps"] and [e["before"] for e in told["rehearsed"]] == told["steps"][1:]
    assert told["cost"]["train_tokens"] > 3 * trained[0]["train_tokens"]
    plain = teach(world, **{**settings, "evaluate": {"limit": 8}}, output_dir=str(world / "plain"))
    assert read_json(plain / "arms/rehearsal/seed0/run.json")["R"][4] == told["R"][4]


def test_what_was_forgotten_in_a_stream_can_be_checked(tmp_path: Path) -> None:
    from continual.verdict import verdicts

    folder = write_run(tmp_path / "run", {"rehearsal": "sequential"})
    steps = [f"chunk {n}" for n in (1, 2, 3, 4)]
    spans = [[1, 2], [2, 3], [4, 4]]
    made = {"steps": steps, "spans": spans}
    write_arm(folder, "rehearsal", R, **made)
    (verdict,) = verdicts(folder, None)
    assert verdict.lost == {"translate": pytest.approx(0.6), "edit": pytest.approx(0.2)}
    assert verdict.taught == ["translate", "edit", "answer"] and verdict.planned == 3
    other = write_run(tmp_path / "part", {"rehearsal": "sequential"})
    write_arm(other, "rehearsal", R[:4], **made)  # after the third chunk, which is the last of edit
    (verdict,) = verdicts(other, None)
    assert verdict.lost == {"translate": pytest.approx(0.3)} and verdict.taught == ["translate", "edit"]


def test_a_stream_goes_back_to_a_chunk_and_on_again(world: Path) -> None:
    from test_resume import ADAPTER, matrices

    from continual.rollback import Selection, rollback

    settings = {"stream": {"chunks": 3}, "arms": {"x": ARM}, "adapter": ADAPTER}
    settings["evaluate"] = {"limit": 8, "general": ["first"]}
    run = teach(world, **settings)
    whole, before = matrices(run), read_json(run / "arms/x/seed0/run.json")
    with pytest.raises(ContinualError, match="not announced, and states lie between chunks"):
        rollback(run, Selection("sound"), Console(file=io.StringIO()))
    rollback(run, Selection("chunk 1"), Console(file=io.StringIO()))
    told = read_json(run / "arms/x/seed0/run.json")
    assert told["rows"] == ["base", "chunk 1"] and told["rehearsed"] == [] and len(told["general"]) == 2
    assert told["spans"] == before["spans"]
    teach(world, **settings)
    after = read_json(run / "arms/x/seed0/run.json")
    assert matrices(run) == whole and {**after, "cost": None} == {**before, "cost": None}


def test_a_stream_that_dies_ends_with_the_same_bytes(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from test_resume import ADAPTER, TRAINING, Killed, die_at, matrices

    rehearsal = {**ARM["rehearsal"], "rehearse_base": "documents", "base_samples": 3, "distill": {"weight": 0.5}}
    settings = {
        "arms": {"x": {"rehearsal": rehearsal}},
        "adapter": ADAPTER,
        "training": TRAINING,
        "stream": {"chunks": 3},
        "evaluate": {"limit": 8, "general": ["first"]},
    }
    whole = teach(world, **settings, output_dir=str(world / "whole"))
    deaths = 0
    for nth in (5, 6, 7, 8, 10, 13, 100):
        with monkeypatch.context() as patch:
            die_at(patch, nth)
            try:
                run = teach(world, **settings)
                break
            except Killed:
                deaths += 1
    else:
        run = teach(world, **settings)
    assert deaths >= 5 and matrices(run) == matrices(whole)
    for name in ("general", "spans", "rehearsed"):
        mine, other = (read_json(one / "arms/x/seed0/run.json")[name] for one in (run, whole))
        assert mine == other


def test_more_chunks_than_rows_are_noticed_before_anything_is_written(world: Path) -> None:
    with pytest.raises(ContinualError, match="67 chunks of 66 training rows"):
        teach(world, stream={"chunks": 67}, arms={"finetune": {}})
    assert not (world / "run").exists()


def test_a_stream_cannot_grow(world: Path) -> None:
    settings = {"stream": {"chunks": 2}, "arms": {"finetune": {}}}
    teach(world, **settings)
    with pytest.raises(ContinualError, match="another recipe"):
        teach(world, **settings, curriculum=["sound", "legs", "first"])


def test_streams_and_announced_tasks_can_be_swept(world: Path) -> None:
    arms = {"finetune": {}, "multitask": {"teach": "multitask"}}
    run = teach(world, arms=arms, sweep={"stream": [None, {"chunks": 3}]})
    told = results.collect(run)["arms"]["finetune"]
    assert [len(one["R"]) for one in told["runs"]] in ([3, 4], [4, 3]) and len(told["mean"]) == 2
    assert "chunk 3" in report.page([run])


def test_the_samples_of_a_stream_can_be_looked_at(world: Path) -> None:
    from continual import talk

    run = teach(world, stream={"chunks": 3}, arms={"rehearsal": ARM}, curriculum=["sound", "legs"])
    out = io.StringIO()
    talk.rehearse(run, "legs", 2, Console(file=out, width=100))
    assert "rejected" in out.getvalue() or "kept" in out.getvalue()
    with pytest.raises(ContinualError, match="was not learnt"):
        talk.rehearse(run, "first", 2, Console(file=out))


# What it costs, and how it is shown


def test_cost_of_a_stream_by_hand() -> None:
    # SIZES: a 100 rows of 20 tokens, b 40 of 30, c 60 of 10; four chunks of 50: a | a | b, c | c
    streamed = planned(arms={"x": {"rehearsal": {"ratio": 0.2}}}, stream={"chunks": 4})
    cost = estimate.cost(streamed, "x", SIZES, BASE)
    # before chunks 2, 3, 4: 10, 20 and 30 samples for each of two epochs; the last 30 are of 100 a, 40 b, 10 c
    rehearsed = 30 * 20 + 20 * 20 + 8 * 30 + 2 * 10
    assert cost.written == 2 * 60
    assert cost.written_tokens == 2 * rehearsed
    assert cost.train_tokens == 2 * (100 * 20 + 40 * 30 + 60 * 10 + rehearsed)
    assert cost.answers == 4 * 80
    fixed = planned(arms={"x": {"rehearsal": {"samples": 7}}}, stream={"chunks": 4})
    assert estimate.cost(fixed, "x", SIZES, BASE).written == 2 * 21
    real = planned(arms={"x": {"rehearsal": {"samples": 7, "writer": "real"}}}, stream={"chunks": 4})
    learned = estimate.cost(real, "x", SIZES, BASE)
    assert learned.written == 0 and learned.train_tokens > cost.train_tokens - 2 * rehearsed


def test_the_page_frames_the_row_in_which_a_task_ended(tmp_path: Path) -> None:
    from continual.report.views import rows_of, views_of

    run = write_run(tmp_path / "run", {"x": "sequential", "m": "multitask"}, ["a", "b"])
    cells = [[0.0, 0.1], [0.5, 0.1], [0.9, 0.4], [0.6, 0.8]]
    steps = ["chunk 1", "chunk 2", "chunk 3"]
    write_arm(run, "x", cells, tasks=["a", "b"], steps=steps, spans=[[1, 2], [2, 3]])
    write_arm(run, "m", [[0.0, 0.1], [0.9, 0.7]], tasks=["a", "b"], teach="multitask")
    document = results.collect(run)
    rows = rows_of(document, {"x": 0, "m": 1})
    assert rows[0].seen == pytest.approx([0.5, 0.65, 0.7])
    assert rows[1].seen == pytest.approx([0.9, 0.8, 0.8])  # of the same tasks in each step
    (view,) = views_of(document, rows)
    assert view.steps == steps and list(map(tuple, view.spans)) == [(1, 2), (2, 3)]
    assert view.matrices[0].changes == pytest.approx([0.6 - 0.9, 0.0])
    from continual.report.words import forgotten, learned

    assert learned(view.matrices[0]) == "a 0.0 → 90.0, b 10.0 → 80.0" and forgotten(view.matrices[0]) == "a −30.0"
    page = report.page([run])
    assert "+ chunk 3" in page and json.dumps(steps[0])[1:-1] in page
