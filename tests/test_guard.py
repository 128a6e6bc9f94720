"""The guard of an arm: what it examines, what it decides, and that a kill at the decision changes nothing."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ANIMALS, recipe, teach, write_task
from pydantic import ValidationError
from test_resume import ADAPTER, Killed, die_at, matrices

from continual import breach
from continual.breach import Decision, forgotten
from continual.record import Cost, Record
from continual.rehearse.writer import ModelWriter
from continual.runs import read_json

THREE = ["sound", "legs", "first"]
REHEARSAL = {"ratio": 0.3, "max_tries": 2}
TRAINING = {"learning_rate": 1e-2, "num_train_epochs": 2, "tokens_per_batch": 128, "max_length": 48}


def arm(on_breach: str, rehearsal: dict[str, Any] | None = None, limit: float = 0.05, **more: Any) -> dict[str, Any]:
    return {"guard": {"max_forgetting": limit, "on_breach": on_breach, "samples": 6}, "rehearsal": rehearsal, **more}


@pytest.fixture
def fall(monkeypatch: pytest.MonkeyPatch) -> None:
    """`sound` falls from .9 to .5 once `legs` is learned; other tasks stay as they are."""

    def score(self: breach.Guardian, task: str, samples: Any, model: Any) -> float:
        learned_legs = (self.folder.parent / "after" / "2").exists() and self.decided(2) is None
        return 0.5 if task == "sound" and learned_legs else 0.9

    monkeypatch.setattr(breach.Guardian, "_score", score)
    # A model of a few steps writes nothing that passes.
    monkeypatch.setattr(breach.Guardian, "_samples", lambda self, task, written: self.material.samples[task]["dev"])


def run_of(run: Path, name: str) -> dict[str, Any]:
    return dict(read_json(run / f"arms/{name}/seed0/run.json"))


def test_forgetting_is_the_best_since_a_task_was_learned_minus_now() -> None:
    history = [{"a": 0.5}, {"a": 0.75, "b": 0.5}]
    assert forgotten(history, {"a": 0.25, "b": 0.75, "c": 1.0}) == {"a": 0.5, "b": -0.25}
    assert forgotten([], {"a": 1.0}) == {}


def test_only_more_than_the_limit_is_a_breach() -> None:
    decision = Decision("c", 0.25, "dev", {}, {}, {"a": 0.25, "b": 0.5}, "stop")
    assert decision.breaches == {"b": 0.5}
    assert decision.line == (
        "guard: after c, b has lost 50.0 points on its dev rows (at most 25.0 are allowed); this arm stops here"
    )


def test_a_guard_needs_a_sequence(world: Path) -> None:
    with pytest.raises(ValidationError, match="multitask has no earlier tasks to guard"):
        recipe(world, arms={"all": {"teach": "multitask", "guard": {}}})


def test_stop_ends_this_arm_and_no_other(world: Path, fall: None) -> None:
    arms = {"guarded": arm("stop"), "finetune": {}}
    run = teach(world, arms=arms, adapter=ADAPTER, curriculum=THREE, training=TRAINING)
    told = run_of(run, "guarded")
    assert told["rows"] == ["base", "sound", "legs"] and len(run_of(run, "finetune")["R"]) == 4
    stop = told["stopped_by_guard"]
    assert stop["after"] == "legs" and stop["forgotten"] == {"sound": pytest.approx(0.4)}
    results = read_json(run / "results.json")
    assert list(results["arms"]) == ["finetune"]
    assert results["unfinished"][0]["stopped_by_guard"] == stop
    assert "stopped by its guard after legs: sound −40.0 (at most 5.0)" in (run / "report.html").read_text()
    assert not (run / "arms/guarded/seed0/after/3").exists()
    # The same command again says it again, and teaches nothing.
    teach(world, arms=arms, adapter=ADAPTER, curriculum=THREE, training=TRAINING)
    assert run_of(run, "guarded") == told


def test_what_cannot_be_seen_counts_as_fallen(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # No sample passes its checks: right after its own task that is told, after a later one it is a breach.
    monkeypatch.setattr(breach.Guardian, "_samples", lambda self, task, written: [])
    run = teach(world, arms={"a": arm("stop", REHEARSAL)}, adapter=ADAPTER, curriculum=THREE, training=TRAINING)
    first, second = (breach.Decision(**check) for check in run_of(run, "a")["guard"])
    assert first.action == "none" and first.line.endswith(
        "no sample written of it passed its checks; this arm goes on"
    )
    assert second.action == "stop" and "sound" in second.unseen and second.line.endswith("this arm stops here")
    assert "sound unseen" in (run / "report.html").read_text()


def test_warn_goes_on(world: Path, fall: None) -> None:
    arms = {"guarded": arm("warn"), "finetune": {}}
    run = teach(world, arms=arms, adapter=ADAPTER, curriculum=THREE, training=TRAINING)
    told = run_of(run, "guarded")
    assert [check["action"] for check in told["guard"]] == ["none", "warn", "none"]
    assert told["stopped_by_guard"] is None and told["R"] == run_of(run, "finetune")["R"]


@pytest.mark.parametrize("keep", ["all", "last"])
@pytest.mark.parametrize("adapter", [ADAPTER, None], ids=["adapter", "full"])
def test_rollback_leaves_the_run_as_if_the_task_had_not_been_there(
    world: Path, fall: None, keep: str, adapter: dict[str, Any] | None
) -> None:
    arms = {"guarded": arm("rollback", REHEARSAL)}
    settings = {"arms": arms, "adapter": adapter, "training": TRAINING, "keep": keep}
    run = teach(world, **settings, curriculum=THREE)
    told = run_of(run, "guarded")
    assert [check["action"] for check in told["guard"]] == ["none", "rollback", "none"]
    assert told["rows"] == ["base", *THREE]
    assert told["R"][2] == told["R"][1] and told["ci"][2] == told["ci"][1]
    assert told["R"][3] != told["R"][2]
    # Nothing is rehearsed of what the model does not know.
    assert [(entry["before"], entry["task"]) for entry in told["rehearsed"]] == [("legs", "sound"), ("first", "sound")]
    states = sorted(p.name for p in (run / "arms/guarded/seed0/after").iterdir())
    assert states == (["1", "2", "3"] if keep == "all" else ["3"])
    # What was given up was spent all the same.
    assert told["cost"]["train_tokens"] > 2.5 * sum(1 for _ in THREE)
    if keep == "all":
        trained = [read_json(run / f"arms/guarded/seed0/after/{n}/trained.json") for n in (1, 2, 3)]
        assert [t.get("rolled_back", False) for t in trained] == [False, True, False]
        assert told["cost"]["train_tokens"] == sum(t["train_tokens"] for t in trained)
        assert trained[1]["train_tokens"] > 0


METHODS: dict[str, dict[str, Any]] = {
    "ewc_online": {"lambda": 10, "importance_samples": 10},
    "agem": {"patterns_per_experience": 10, "sample_size": 8},
    "replay": {"mem_size": 12},
    "slao": {},
}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_does_not_count_what_was_taken_back(world: Path, fall: None, method: str) -> None:
    write_task(world / "tasks", "last", {animal: animal[-1] for animal in ANIMALS})
    arms = {"guarded": arm("rollback", method=method, method_args=METHODS[method])}
    settings = {"arms": arms, "adapter": ADAPTER, "training": TRAINING, "keep": "last"}
    whole = run_of(teach(world, **settings, curriculum=[*THREE, "last"], output_dir=str(world / "whole")), "guarded")
    assert [check["action"] for check in whole["guard"]] == ["none", "rollback", "none", "none"]
    kept = {entry["task"] for entry in whole["kept"]}
    assert kept == ({"sound", "first"} if method in ("agem", "replay") else set())
    # Stopped after the task that followed, and grown: by now the state before the one that was taken back is gone.
    teach(world, **settings, curriculum=THREE)
    grown = run_of(teach(world, **settings, curriculum=[*THREE, "last"]), "guarded")
    assert grown["R"][4] == whole["R"][4] and grown["kept"] == whole["kept"]


def test_the_share_of_a_merge_is_of_the_tasks_that_the_model_knows() -> None:
    import torch

    from continual.catalogue import NoArguments
    from continual.methods import slao

    method = slao.build(NoArguments(), None)  # type: ignore[arg-type]
    seen: list[int] = []
    method.merge = lambda merged, finetuned, tasks: seen.append(tasks) or {}  # type: ignore[method-assign,func-returns-value]
    strategy = SimpleNamespace(lm=torch.nn.Linear(2, 2), experience=SimpleNamespace(current_experience=3))
    method.after_training_exp(strategy)
    method.skip(1)
    method.after_training_exp(strategy)
    assert seen == [4, 3]


def test_what_a_guard_decides_does_not_hang_on_how_much_of_R_is_filled(world: Path, fall: None) -> None:
    settings = {"arms": {"guarded": arm("rollback", REHEARSAL)}, "training": TRAINING, "curriculum": THREE}
    every = run_of(teach(world, **settings), "guarded")
    sparse = {"limit": 8, "after": "own_and_last"}
    own = run_of(teach(world, **settings, evaluate=sparse, output_dir=str(world / "own")), "guarded")
    assert own["guard"] == every["guard"] and own["rehearsed"] == every["rehearsed"]
    assert [[cell is not None for cell in row] for row in own["R"]] == [
        [True, True, True],
        [True, False, False],
        [False, True, False],
        [True, True, True],
    ]
    assert own["R"][3] == every["R"][3] and own["R"][2][1] == every["R"][2][1]


def test_what_the_guard_writes_is_bounded_by_the_shape_of_its_task(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[str], list[str]]] = []
    write = ModelWriter.write

    def noting(self: Any, model: Any, wanted: Any, seed: int, earlier: Any = None, shapes: Any = None) -> Any:
        if self.relabel:  # the guard's
            seen.append((list(wanted), list(shapes)))
        return write(self, model, wanted, seed, earlier, shapes)

    monkeypatch.setattr(ModelWriter, "write", noting)
    teach(world, arms={"guarded": arm("warn", REHEARSAL)}, training=TRAINING)
    assert seen == [(["sound"], ["sound"]), (["legs"], ["sound", "legs"])]


@pytest.mark.parametrize("on_breach", ["stop", "rollback", "warn"])
def test_killed_again_and_again_around_the_decision_it_ends_the_same(
    world: Path, fall: None, monkeypatch: pytest.MonkeyPatch, on_breach: str
) -> None:
    settings = {
        "arms": {"guarded": arm(on_breach, {**REHEARSAL, "budget": "surprise", "when": "before_task"})},
        "adapter": ADAPTER,
        "training": TRAINING,
        "curriculum": THREE,
        "keep": "last",
    }
    whole = teach(world, **settings, output_dir=str(world / "whole"))
    deaths = 0
    for nth in range(5, 60, 2):
        with monkeypatch.context() as patch:
            die_at(patch, nth)
            try:
                run = teach(world, **settings)
                break
            except Killed:
                deaths += 1
    assert deaths > 3
    assert matrices(run) == matrices(whole)
    told, other = run_of(run, "guarded"), run_of(whole, "guarded")
    assert told["guard"] == other["guard"] and told["rehearsed"] == other["rehearsed"]
    assert told["stopped_by_guard"] == other["stopped_by_guard"]


def test_an_arm_that_claims_no_real_row_is_examined_on_what_the_model_wrote(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str]] = []
    score = breach.Guardian._score

    def noting(self: breach.Guardian, task: str, samples: Any, model: Any) -> float:
        seen.extend((task, sample.messages[0].content) for sample in samples)
        return score(self, task, samples, model)

    monkeypatch.setattr(breach.Guardian, "_score", noting)
    # Trained long enough that some written samples are well formed.
    training = {**TRAINING, "num_train_epochs": 25, "tokens_per_batch": 256}
    settings = {"arms": {"guarded": arm("warn", {"ratio": 0.3, "max_tries": 4}, limit=0.0)}, "training": training}
    run = teach(world, **settings)
    told = run_of(run, "guarded")
    assert {check["rows"] for check in told["guard"]} == {"written"} and seen
    assert told["cost"]["real_rows_kept"] == 0 and told["cost"]["stored_bytes"] == 0
    assert told["guard"][1]["examined"]["sound"] > 0 and "sound" in told["guard"][1]["forgotten"]
    folder = run / "arms/guarded/seed0/guard"
    assert sorted(p.name for p in folder.glob("*.jsonl")) == ["1-sound.jsonl", "2-legs.jsonl"]
    from continual.rehearse import text

    written = {m.messages[0].content for m in text.load(folder / "1-sound.jsonl") if m.messages}
    assert {words for task, words in seen if task == "sound"} <= written
    assert told["guard"][0]["scores"]["sound"] > 0


def test_dev_rows_that_are_read_again_are_counted(world: Path) -> None:
    run = teach(world, arms={"guarded": arm("warn")}, curriculum=THREE, training=TRAINING)
    told = run_of(run, "guarded")
    examined = told["guard"][2]["examined"]
    assert {check["rows"] for check in told["guard"]} == {"dev"}
    assert told["cost"]["real_rows_kept"] == examined["sound"] + examined["legs"] > 0
    assert told["cost"]["stored_bytes"] > 0 and told["cost"]["generated_tokens"] == 0


def test_rehearsed_real_rows_and_dev_rows_add_up(tmp_path: Path) -> None:
    record = Record(tmp_path, "a", "sequential", 0, {}, ["x"], ["x"], cost=Cost())
    record.add_rehearsed([{"task": "x", "real_rows": 5, "real_bytes": 50}])
    check = {"action": "none", "generated_tokens": 7, "examined": {"x": 3, "y": 4}, "real_bytes": {"x": 30}}
    record.add_check(check)
    record.add_check({**check, "examined": {"x": 2, "y": 4}})
    assert (record.cost.real_rows_kept, record.cost.stored_bytes, record.cost.generated_tokens) == (8, 80, 14)


class Stateless:
    """A foreign plugin that cannot be taken back."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("before_", "after_")):
            return lambda *args, **kwargs: None
        raise AttributeError(name)


def test_rollback_is_refused_where_a_plugin_has_no_state(world: Path) -> None:
    from continual.errors import ContinualError

    plugin = {"class": "test_guard:Stateless"}
    with pytest.raises(ContinualError, match=r"arms.guarded.guard.on_breach: rollback needs plugins.*Stateless has"):
        teach(world, arms={"guarded": arm("rollback", plugin=plugin)}, training=TRAINING)
    assert not (world / "run").exists()


def test_a_model_that_was_given_up_sets_no_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import asdict

    from continual.runs import write_json

    scores = {"a": 0.5, "b": 0.75, "d": 1.0}
    monkeypatch.setattr(
        breach.Guardian, "_rows", lambda self, learnt, number, model: ({t: ["row"] for t in learnt}, 0)
    )
    monkeypatch.setattr(breach.Guardian, "_score", lambda self, task, samples, model: scores[task])
    guardian = breach.Guardian(
        order=["a", "b", "c", "d"],
        folder=tmp_path,
        limit=0.1,
        on_breach="stop",
        material=SimpleNamespace(),  # type: ignore[arg-type]
        writer=SimpleNamespace(),  # type: ignore[arg-type]
        samples=1,
        choices={},
        shapes=dict,
        seed=0,
    )
    before = [
        Decision("a", 0.1, "written", {}, {"a": 0.5}, {}, "none"),
        Decision("b", 0.1, "written", {}, {"a": 0.5, "b": 0.75}, {"a": 0.0}, "none"),
        Decision("c", 0.1, "written", {}, {"a": 1.0, "b": 0.0, "c": 1.0}, {"a": -0.5, "b": 0.75}, "rollback"),
    ]
    for number, decision in enumerate(before, start=1):
        write_json(tmp_path / f"{number}.json", asdict(decision))
    decision = guardian.decide(4, None, {})
    assert decision.forgotten == {"a": 0.0, "b": 0.0} and decision.action == "none"
    assert list(decision.scores) == ["a", "b", "d"] and guardian.decided(4) == decision
