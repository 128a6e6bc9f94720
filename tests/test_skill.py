"""`continual teach`: one more task for a run, and for a model that somebody else has taught."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import ANIMALS, make_world, write_task
from conftest import teach as teach_recipe
from rich.console import Console
from test_guard import REHEARSAL, TRAINING
from test_resume import ADAPTER, Killed, die_at, matrices

from continual import breach, execute, skill, talk
from continual.cli import main
from continual.errors import ContinualError
from continual.rehearse import text
from continual.rehearse.writer import ModelWriter
from continual.runs import read_json

ARMS = {"finetune": {}, "rehearsal": {"rehearsal": REHEARSAL}}
SETTINGS: dict[str, Any] = {"arms": ARMS, "adapter": ADAPTER, "training": TRAINING, "curriculum": ["sound", "legs"]}


def more(run: Path | str, *texts: str, task: str = "first", world: Path, **where: Any) -> Path:
    """Teach one more task, as the command does."""
    lesson = skill.plan(str(run), task, texts, folders=[world / "tasks"], **where)
    console = Console(file=io.StringIO())
    return execute.run(lesson.recipe, data_root=None, task_folders=lesson.folders, fresh=False, console=console)


def told(run: Path, arm: str = "rehearsal", name: str = "seed0") -> dict[str, Any]:
    return dict(read_json(run / f"arms/{arm}/{name}/run.json"))


def states(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "arms/rehearsal/seed0/after").iterdir())


@pytest.mark.parametrize("adapter", [ADAPTER, None], ids=["adapter", "full"])
def test_a_run_that_is_taught_more_ends_as_if_its_curriculum_had_grown(
    world: Path, adapter: dict[str, Any] | None
) -> None:
    settings = {**SETTINGS, "adapter": adapter}
    run = teach_recipe(world, **settings)
    before = matrices(run)
    new = more(run, world=world)
    assert new == world / "run+first" and matrices(run) == before
    grown = teach_recipe(world, **{**settings, "curriculum": ["sound", "legs", "first"]})
    now, other = told(new), told(grown)
    assert now["rows"] == ["base", "sound", "legs", "first"] and now["R"][3] == other["R"][3]
    assert now["R"][2] == other["R"][2]  # the model before, on the new task too
    assert [row[:2] for row in now["R"]] == [row[:2] for row in other["R"]] and now["R"][1][2] is None
    # The earlier tasks are rehearsed, in the model's own words alone.
    rehearsed = [entry for entry in now["rehearsed"] if entry["before"] == "first"]
    assert [entry["task"] for entry in rehearsed] == ["sound", "legs"] and all(e["wanted"] for e in rehearsed)
    assert now["cost"]["real_rows_kept"] == 0
    assert read_json(new / "manifest.json")["taught_from"] == {
        "run": str(run),
        "arm": "rehearsal",
        "run_name": "seed0",
        "after": 2,
    }
    assert list(read_json(new / "results.json")["arms"]) == ["rehearsal"]
    assert "first" in (new / "report.html").read_text()
    assert talk.preferred(new) == "rehearsal" and talk.ask(new, "sad dog", None) is not None


def test_old_tasks_whose_data_is_gone_are_rehearsed_all_the_same(world: Path, capsys: pytest.CaptureFixture) -> None:
    run = teach_recipe(world, **SETTINGS)
    whole = told(more(run, world=world, out=world / "with"))
    for file in (world / "tasks").glob("sound.*"):
        file.unlink()
    lesson = skill.plan(str(run), "first", (), folders=[world / "tasks"])
    assert lesson.knows == ["sound", "legs"] and list(lesson.gone) == ["sound"]
    assert any(line.startswith("mind: sound is rehearsed, but not measured: unknown task") for line in lesson.lines)
    new = more(run, world=world)
    now = told(new)
    assert now["tasks"] == ["legs", "first"] and now["order"] == ["sound", "legs", "first"]
    assert [row[1] for row in now["R"]][2:] == [row[2] for row in whole["R"]][2:]
    assert now["R"][3] == whole["R"][3][1:]
    assert now["rehearsed"] == whole["rehearsed"]
    results = read_json(new / "results.json")
    (found,) = results["arms"]["rehearsal"]["runs"]
    assert results["tasks"] == ["legs", "first"] == found["order"] and found["after"] == ["base", "legs", "first"]
    assert found["figures"]["acc"] is not None and results["unfinished"] == []
    # And once more, from what is known by now only.
    for file in (world / "tasks").glob("legs.*"):
        file.unlink()
    from conftest import ANIMALS, write_task

    write_task(world / "tasks", "last", {a: a[-1] for a in ANIMALS})
    third = told(more(new, world=world, task="last"))
    assert third["tasks"] == ["first", "last"] and third["R"][4][0] is not None
    assert [e["task"] for e in third["rehearsed"] if e["before"] == "last"] == ["sound", "legs", "first"]


def test_what_is_known_of_a_task_whose_data_is_gone_bounds_what_is_written_of_it(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    general = {"limit": 8, "general": ["first"]}
    from conftest import ANIMALS, write_task

    write_task(world / "tasks", "last", {a: a[-1] for a in ANIMALS})
    run = teach_recipe(world, **SETTINGS, evaluate=general)
    for file in (world / "tasks").glob("sound.*"):
        file.unlink()
    seen: list[list[str]] = []
    write = ModelWriter.write

    def noting(self: Any, model: Any, wanted: Any, seed: int, earlier: Any = None, shapes: Any = None) -> Any:
        seen.append(list(shapes))
        return write(self, model, wanted, seed, earlier, shapes)

    monkeypatch.setattr(ModelWriter, "write", noting)
    new = more(run, world=world, task="last")
    assert seen == [["sound", "legs"]]
    now = told(new)
    rehearsed = {entry["task"]: entry for entry in now["rehearsed"] if entry["before"] == "last"}
    assert rehearsed["sound"]["drift"] is None and rehearsed["sound"]["memorised"] is None
    (found,) = read_json(new / "results.json")["arms"]["rehearsal"]["runs"]
    assert found["after"] == [row["after"] for row in found["general"]] == ["base", "legs", "last"]


def test_an_arm_that_stores_rows_needs_them(world: Path) -> None:
    arms = {"memory": {"method": "replay", "method_args": {"mem_size": 12}}}
    run = teach_recipe(world, **{**SETTINGS, "arms": arms})
    for file in (world / "tasks").glob("sound.*"):
        file.unlink()
    with pytest.raises(ContinualError, match="replays stored rows, and those of sound are gone"):
        more(run, world=world, arm="memory")


def test_a_stream_is_not_taught_more(world: Path) -> None:
    run = teach_recipe(world, **SETTINGS, stream={"chunks": 2})
    with pytest.raises(ContinualError, match="not announced; a longer stream"):
        more(run, world=world)


def test_killed_anywhere_the_same_command_goes_on(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = teach_recipe(world, **SETTINGS)
    whole = matrices(more(run, world=world, out=world / "whole"))
    deaths = 0
    for nth in (1, 3, 5, 6, 8, 10, 12, 40):
        with monkeypatch.context() as patch:
            die_at(patch, nth)
            try:
                new = more(run, world=world)
                break
            except Killed:
                deaths += 1
    assert deaths > 3 and matrices(new) == whole


def test_what_differs_for_the_new_task_is_given_by_key(world: Path) -> None:
    run = teach_recipe(world, **SETTINGS)
    texts = ("num_train_epochs=5", "training.learning_rate=3e-3", "rehearsal.ratio=0.5", "guard.on_breach=warn")
    recipe = skill.plan(str(run), "first", texts, folders=[world / "tasks"]).recipe
    training = recipe.training_of("rehearsal", "first")
    assert (training.num_train_epochs, training.learning_rate) == (5, 3e-3)
    assert recipe.training_of("rehearsal", "legs").num_train_epochs == 2
    arm = recipe.arms["rehearsal"]
    assert arm.rehearsal is not None and arm.rehearsal.ratio == 0.5
    assert arm.guard is not None and arm.guard.on_breach == "warn"
    assert Path(recipe.output_dir).name.startswith("run+first-")


def test_a_guard_that_comes_later_can_take_back_the_new_task_only(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_task(world / "tasks", "last", {animal: animal[-1] for animal in ANIMALS})
    run = teach_recipe(world, **SETTINGS)
    monkeypatch.setattr(breach.Guardian, "_samples", lambda *given: [])  # nothing can be seen: a breach
    new = more(run, "guard.on_breach=rollback", world=world)
    guard = new / "arms/rehearsal/seed0/guard"
    assert [read_json(guard / f"{n}.json")["action"] for n in (2, 3)] == ["none", "rollback"]
    assert told(new)["R"][3][:2] == told(new)["R"][2][:2] == told(run)["R"][2]
    with pytest.raises(ContinualError, match="guard: cannot be null; .* had first taken back"):
        more(new, "guard=null", task="last", world=world)


@pytest.mark.parametrize(
    ("task", "texts", "where", "said"),
    [
        ("legs", (), {}, "'legs' is one of its tasks already"),
        ("frist", (), {}, "unknown task 'frist'; did you mean 'first'"),
        ("first", ("rehearsal.cue=shared",), {}, "rehearsal.cue: the earlier tasks were learned with it"),
        ("first", ("rehearsal.fresh=false",), {}, "rehearsal.fresh: the earlier tasks were learned with it"),
        ("first", ("rehearsal.schedule=spaced",), {}, "rehearsal.schedule: the earlier tasks were learned with it"),
        ("first", ("rehearsal.distill.weight=1",), {}, "rehearsal.distill.weight: the earlier tasks were learned"),
        ("first", ("evaluate.limit=3",), {}, "evaluate.limit: cannot be changed"),
        ("first", ("training.bf16=true",), {}, "bf16: is the same for all arms"),
        ("first", (), {"arm": "rehearsel"}, "'rehearsel' is no arm that is taught in sequence; did you mean"),
        ("first", (), {"seed": 4}, r"was not taught with seed 4; there are \[0\]"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(
    finished: Path, task: str, texts: tuple[str, ...], where: dict[str, Any], said: str
) -> None:
    with pytest.raises(ContinualError, match=said):
        more(finished, *texts, task=task, world=finished.parent, **where)
    assert not list(finished.parent.glob("run+*"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return teach_recipe(make_world(tmp_path_factory.mktemp("skill")), **SETTINGS)


def test_a_run_that_does_not_rehearse_is_not_taught_by_mistake(world: Path) -> None:
    run = teach_recipe(world, **{**SETTINGS, "arms": {"finetune": {}}, "curriculum": ["legs"]})
    with pytest.raises(ContinualError, match="no arm rehearses, so that what it knows would be lost; --arm takes"):
        more(run, world=world)
    assert len(told(more(run, world=world, arm="finetune"), "finetune")["R"]) == 3


def test_a_folder_that_holds_something_else_is_left_alone(finished: Path) -> None:
    other = finished.parent / "thesis"
    other.mkdir()
    (other / "chapter.tex").write_text("words")
    with pytest.raises(ContinualError, match="holds no run, but something else"):
        more(finished, world=finished.parent, out=other)
    assert [path.name for path in other.iterdir()] == ["chapter.tex"]


def test_neither_a_run_nor_a_model_is_told_as_both(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    with pytest.raises(ContinualError) as caught:
        more("no/such", world=world)
    assert "no run in no/such" in str(caught.value) and "cannot load 'no/such'" in str(caught.value)


FOREIGN = ("training.learning_rate=1e-2", "training.num_train_epochs=2", "training.max_length=48", "evaluate.limit=4")


def test_a_model_from_elsewhere_rehearses_in_its_own_words(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    new = more("model", *FOREIGN, "adapter.r=2", world=world, out=world / "out")
    now = told(new)
    assert now["rows"] == ["base", "first"] and now["cost"]["real_rows_kept"] == 0
    assert [(entry["before"], entry["task"]) for entry in now["rehearsed"]] == [("first", "base")]
    assert text.load(new / "arms/rehearsal/seed0/rehearsed/0-base.jsonl")
    assert talk.preferred(new) == "rehearsal"


def test_an_adapter_from_elsewhere_goes_on_as_that_adapter(
    finished: Path, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from safetensors.torch import load_file

    monkeypatch.chdir(world)
    given = world / "given"
    shutil.copytree(finished / "arms/rehearsal/seed0/after/2", given)
    (given / "trained.json").unlink()
    recipe = skill.plan("given", "first", FOREIGN, folders=[world / "tasks"], out=world / "out").recipe
    assert recipe.start == "given" and recipe.adapter is not None and recipe.adapter.r == ADAPTER["r"]
    new = more("given", *FOREIGN, world=world, out=world / "out")
    # Row 0 is the model before: the base with the adapter.
    tasks = {"sound", "legs"}
    assert tasks.isdisjoint(told(new)["tasks"])
    old, now = (load_file(folder / "adapter_model.safetensors") for folder in (given, new / AFTER))
    assert old.keys() == now.keys() and all(old[name].shape == now[name].shape for name in old)
    moved = max(float((now[name] - old[name]).abs().max()) for name in old)
    assert 0 < moved < 1 and not any(torch.equal(now[name], old[name]) for name in old if "lora_B" in name)
    known = talk.Taught(new)
    logits = [known.model(name)(torch.tensor([[1, 20, 30]])).logits for name in ("base", "rehearsal")]
    from continual.model import load_adapter, load_model

    start = load_adapter(load_model(recipe.model_name_or_path), given)(torch.tensor([[1, 20, 30]])).logits
    assert torch.equal(logits[0], start) and not torch.equal(logits[1], start)


AFTER = "arms/rehearsal/seed0/after/1"


def test_only_lora_adapters_can_be_taught_on(world: Path) -> None:
    odd = world / "odd"
    odd.mkdir()
    (odd / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    with pytest.raises(ContinualError, match="a IA3 adapter cannot be taught on"):
        more(odd, world=world)


def test_the_command_says_what_it_does(world: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    run = teach_recipe(world, **{**SETTINGS, "curriculum": ["legs"]})
    monkeypatch.chdir(world)
    with pytest.raises(SystemExit) as ended:
        main(["teach", run.name, "first"])
    assert not ended.value.code
    out = capsys.readouterr().out
    assert out.startswith("learns first, and rehearses legs from the model alone; it goes to run+first\n")
    assert "continual chat run+first" in out
