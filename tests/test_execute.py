"""A whole run: what its arms share, what it leaves behind, and what it says about itself."""

import csv
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tiny
from conftest import make_world, recipe, teach

from continual import execute
from continual.rehearsal_settings import Rehearsal
from continual.rehearsing import model_writer
from continual.runs import read_json
from continual.sample import Message, Sample, label_set

ARMS: dict[str, Any] = {
    "finetune": {},
    "rehearsal": {"rehearsal": {"ratio": 0.2, "max_tries": 1}},
    "specialists": {"teach": "specialists"},
    "multitask": {"teach": "multitask"},
}
QUICK = {"learning_rate": 1e-2, "num_train_epochs": 1, "tokens_per_batch": 256, "max_length": 48}
PROBE = [[1, 20, 30, 40, 50, 60]]


@dataclass
class Notes:
    """What happened inside a run."""

    base_exams: int = 0
    lessons: list[dict[str, Any]] = field(default_factory=list)
    state_at_report: str = ""


def watched(patch: pytest.MonkeyPatch) -> Notes:
    """Look over the shoulder of every run that follows."""
    import torch

    from continual import material, report
    from continual import teach as teaching

    notes = Notes()
    examine, learn, write = material.Material.examine, teaching.Pupil.learn, report.write

    def examining(self: Any, model: Any, tasks: Any) -> Any:
        plain = "peft" not in type(model).__module__
        notes.base_exams += plain
        return examine(self, model, tasks)

    def learning(self: Any, lesson: Any, what: str, into: Path, **more: Any) -> None:
        model = self.strategy.lm
        start = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        rows = [tuple(row["input_ids"]) for row in lesson.dataset]
        learn(self, lesson, what, into, **more)
        with torch.inference_mode():
            after = model(torch.tensor(PROBE)).logits
        told = {"into": into, "start": start, "rows": rows, "steps": self.strategy.step, "logits": after}
        notes.lessons.append(told)

    def reporting(run_dirs: list[Path], out: Path) -> Path:
        notes.state_at_report = read_json(run_dirs[0] / "manifest.json")["state"]
        return write(run_dirs, out)

    patch.setattr(material.Material, "examine", examining)
    patch.setattr(teaching.Pupil, "learn", learning)
    patch.setattr(report, "write", reporting)
    return notes


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Notes]:
    """A run of all kinds of arms with two seeds, and what happened in it."""
    world = make_world(tmp_path_factory.mktemp("execute"))
    with pytest.MonkeyPatch.context() as patch:
        notes = watched(patch)
        run = teach(world, arms=ARMS, adapter={"r": 2}, training=QUICK, seeds=[0, 1], evaluate={"limit": 4})
    return run, notes


def lesson(notes: Notes, *parts: str) -> dict[str, Any]:
    (found,) = (each for each in notes.lessons if each["into"].parts[-len(parts) :] == parts)
    return found


def matrix(folder: Path) -> list[list[str]]:
    return list(csv.reader((folder / "R.csv").read_text().splitlines()))


def test_the_base_is_measured_once_for_all_arms_and_seeds(finished: tuple[Path, Notes]) -> None:
    run, notes = finished
    assert notes.base_exams == 1
    rows = {tuple(matrix(path.parent)[1]) for path in run.rglob("R.csv")}
    assert len(list(run.rglob("R.csv"))) == 8 and len(rows) == 1
    (base,) = rows
    assert base[0] == "base" and float(base[1]) > 0


def test_a_sweep_over_what_is_asked_measures_the_base_for_each(world: Path) -> None:
    run = teach(world, arms={"finetune": {}}, training=QUICK, sweep={"evaluate.limit": [2, 8]})
    assert len(list((run / "base").glob("*.json"))) == 2


def test_every_arm_learns_the_same_rows(finished: tuple[Path, Notes]) -> None:
    _, notes = finished
    alone = {task: lesson(notes, "specialists", "seed0", "specialists", task)["rows"] for task in ("sound", "legs")}
    assert len(alone["sound"]) == len(alone["legs"]) > 20
    for arm in ("finetune", "rehearsal"):
        for number, task in enumerate(("sound", "legs"), start=1):
            rows = lesson(notes, arm, "seed0", "after", str(number))["rows"]
            assert sorted(rows) == sorted(alone[task])
    together = lesson(notes, "multitask", "seed0", "after", "1")["rows"]
    assert sorted(together) == sorted(alone["sound"] + alone["legs"])


def test_every_arm_begins_with_the_same_adapter_and_every_seed_with_another(finished: tuple[Path, Notes]) -> None:
    import torch

    _, notes = finished

    def start(arm: str, seed: int = 0) -> torch.Tensor:
        weights = lesson(notes, arm, f"seed{seed}", "after", "1")["start"]
        return torch.cat([weights[name].flatten() for name in sorted(weights)])

    assert torch.equal(start("finetune"), start("rehearsal")) and torch.equal(start("finetune"), start("multitask"))
    assert not torch.equal(start("finetune"), start("finetune", seed=1))


def test_saved_adapters_load_with_plain_peft_to_the_same_logits(finished: tuple[Path, Notes]) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run, notes = finished
    seen = set()
    for each in notes.lessons:
        base = AutoModelForCausalLM.from_pretrained(run.parent / "model", dtype=torch.float32)
        with torch.inference_mode():
            untaught = base(torch.tensor(PROBE)).logits
            logits = PeftModel.from_pretrained(base, each["into"]).eval()(torch.tensor(PROBE)).logits
        assert float((logits - each["logits"]).abs().max()) == 0.0
        assert float((logits - untaught).abs().max()) > 0
        assert AutoTokenizer.from_pretrained(each["into"]).chat_template
        seen.add(str(each["into"].relative_to(run)))
    assert len(seen) == 2 * (2 + 2 + 2 + 1)


def test_saved_whole_models_load_with_plain_transformers_to_the_same_logits(world: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    with pytest.MonkeyPatch.context() as patch:
        notes = watched(patch)
        teach(world, arms={"finetune": {}}, training=QUICK)
    last = notes.lessons[-1]
    with torch.inference_mode():
        logits = AutoModelForCausalLM.from_pretrained(last["into"])(torch.tensor(PROBE)).logits
    assert float((logits - last["logits"]).abs().max()) == 0.0


def test_every_seed_has_its_own_matrix_and_together_they_have_a_spread(finished: tuple[Path, Notes]) -> None:
    run, _ = finished
    found = read_json(run / "results.json")
    for arm in ARMS:
        assert [each["seed"] for each in found["arms"][arm]["runs"]] == [0, 1]
        assert found["arms"][arm]["std"]["acc"] is not None
    assert found["unfinished"] == []
    first, second = (lesson(finished[1], "finetune", f"seed{seed}", "after", "2")["logits"] for seed in (0, 1))
    assert float((first - second).abs().max()) > 0


def test_scores_are_the_means_of_the_predictions_beside_them(finished: tuple[Path, Notes]) -> None:
    run, _ = finished
    for path in run.rglob("R.csv"):
        header, _, *rows = matrix(path.parent)
        for number, row in enumerate(rows, start=1):
            for task, cell in zip(header[1:], row[1:], strict=True):
                lines = (path.parent / "predictions" / f"{number}-{task}.jsonl").read_text().splitlines()
                scores = [json.loads(line)["score"] for line in lines]
                assert len(scores) == 4 and float(cell) == pytest.approx(sum(scores) / 4)


def test_a_run_leaves_a_card_results_and_a_page(finished: tuple[Path, Notes]) -> None:
    run, _ = finished
    assert "| rehearsal, seed 1 |" in (run / "README.md").read_text()
    assert (run / "report.html").read_text().lstrip().lower().startswith("<!doctype html>")
    assert not [path for path in run.rglob("*") if path.name.startswith(".") or path.name == "checkpoints"]


def test_the_manifest_says_running_until_all_is_written(finished: tuple[Path, Notes]) -> None:
    run, notes = finished
    assert notes.state_at_report == "running"
    assert read_json(run / "manifest.json")["state"] == "finished"


def test_the_manifest_records_threads_and_versions(finished: tuple[Path, Notes]) -> None:
    import peft
    import torch
    import transformers

    manifest = read_json(finished[0] / "manifest.json")
    assert manifest["threads"] == torch.get_num_threads()
    versions = manifest["versions"]
    assert versions["torch"] == torch.__version__ and versions["peft"] == peft.__version__
    assert versions["transformers"] == transformers.__version__ and "avalanche-lib" in versions


def test_going_on_takes_the_old_number_of_threads_and_tells_of_new_versions(world: Path) -> None:
    import torch
    from rich.console import Console

    settings: dict[str, Any] = {"arms": {"finetune": {}}, "training": QUICK, "curriculum": ["legs"]}
    run, threads = teach(world, **settings), torch.get_num_threads()
    manifest = read_json(run / "manifest.json")
    manifest["threads"], manifest["versions"]["peft"] = threads + 1, "0.0.1"
    (run / "manifest.json").write_text(json.dumps(manifest))
    said = io.StringIO()
    try:
        console = Console(file=said, width=200)
        folders = [world / "tasks"]
        execute.run(recipe(world, **settings), data_root=None, task_folders=folders, fresh=False, console=console)
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    assert "mind: this run began with peft 0.0.1" in said.getvalue()
    assert said.getvalue().count("mind:") == 1
    assert read_json(run / "manifest.json")["threads"] == threads + 1


def test_a_sweep_over_orders_keeps_the_columns_and_permutes_the_rows(world: Path) -> None:
    orders = [["sound", "legs", "first"], ["first", "sound", "legs"]]
    tasks = orders[0]
    with pytest.MonkeyPatch.context() as patch:
        notes = watched(patch)
        run = teach(world, arms={"finetune": {}}, training=QUICK, curriculum=tasks, sweep={"curriculum": orders})
    folders = {tuple(read_json(path)["order"]): path.parent for path in run.rglob("run.json")}
    assert set(folders) == {tuple(order) for order in orders}
    learnt = {}
    for order, folder in folders.items():
        header, *rows = matrix(folder)
        assert header == ["after", *tasks]
        assert [row[0] for row in rows] == ["base", *order]
        learnt[order] = [lesson(notes, folder.name, "after", str(i))["rows"] for i in (1, 2, 3)]
        for number in (1, 2, 3):
            for task, cell in zip(tasks, rows[number][1:], strict=True):
                lines = (folder / "predictions" / f"{number}-{task}.jsonl").read_text().splitlines()
                assert float(cell) == pytest.approx(sum(json.loads(line)["score"] for line in lines) / len(lines))
    straight, turned = (learnt[tuple(order)] for order in orders)
    assert [sorted(turned[i]) for i in (1, 2, 0)] == [sorted(rows) for rows in straight]
    content = read_json(run / "results.json")
    assert [each["order"] for each in content["arms"]["finetune"]["runs"]].count(orders[1]) == 1
    assert content["arms"]["finetune"]["std"]["acc"] is not None  # over orders
    assert "in the order first sound legs" in (run / "README.md").read_text()


def test_orders_and_seeds_share_one_mean_and_what_has_no_order_is_taught_once(world: Path) -> None:
    orders = [["sound", "legs"], ["legs", "sound"]]
    teachers = {**ARMS, "relabelled": {"rehearsal": {"ratio": 0.2, "max_tries": 1, "relabel": "specialist"}}}
    with pytest.MonkeyPatch.context() as patch:
        notes = watched(patch)
        run = teach(
            world,
            arms={name: teachers[name] for name in ("finetune", "specialists", "relabelled", "multitask")},
            adapter={"r": 2},
            training=QUICK,
            seeds=[0, 1],
            sweep={"curriculum": orders},
        )
    found = read_json(run / "results.json")
    assert found["unfinished"] == []
    assert [len(_runs(found, arm)) for arm in found["arms"]] == [4, 2, 4, 2]
    taught = [each["into"].relative_to(run / "arms").parts[:2] for each in notes.lessons]
    assert [run for arm, run in taught if arm == "multitask"] == ["seed0", "seed1"]
    assert sorted(run for arm, run in taught if arm == "specialists") == ["seed0", "seed0", "seed1", "seed1"]
    accs = [each["figures"]["acc"] for each in _runs(found, "finetune")]
    assert found["arms"]["finetune"]["mean"]["acc"] == pytest.approx(sum(accs) / 4)
    assert found["arms"]["finetune"]["std"]["acc"] is not None
    bounds = {each["seed"]: each["figures"]["acc"] for each in _runs(found, "multitask")}
    for each in _runs(found, "finetune"):
        assert each["figures"]["gap_to_multitask"] == pytest.approx(bounds[each["seed"]] - each["figures"]["acc"])
    paired = found["arms"]["finetune"]["paired"]
    assert paired["runs"] == 4
    assert paired["difference"] == pytest.approx(sum(accs) / 4 - sum(bounds.values()) / 2)
    assert paired["ci"][0] <= paired["difference"] <= paired["ci"][1]


def test_only_its_own_task_is_examined_after_each_and_all_at_the_end(world: Path) -> None:
    from continual import report

    order = ["legs", "first", "sound"]
    settings: dict[str, Any] = {
        "arms": {"finetune": {}, "apart": {"teach": "specialists"}, "multitask": {"teach": "multitask"}},
        "training": QUICK,
        "adapter": {"r": 2},
        "curriculum": ["sound", "legs", "first"],
        "sweep": {"curriculum": [order]},
    }
    whole = teach(world, **settings, output_dir=str(world / "whole"))
    sparse = teach(world, **settings, evaluate={"limit": 8, "after": "own_and_last"})
    for arm in settings["arms"]:
        (one,) = read_json(whole / "results.json")["arms"][arm]["runs"]
        (other,) = read_json(sparse / "results.json")["arms"][arm]["runs"]
        examined = [[True] * 3, [False, True, False], [False, False, True], [True] * 3]
        if arm != "finetune":
            examined = [[True] * 3] * 2
        expected = [
            [cell if asked else None for cell, asked in zip(*pair, strict=True)]
            for pair in zip(one["R"], examined, strict=True)
        ]
        assert other["R"] == expected
        assert other["figures"]["acc"] == one["figures"]["acc"] and other["figures"]["bwt"] == one["figures"]["bwt"]
    folder = next((sparse / "arms/finetune").iterdir())
    assert len(list((folder / "predictions").iterdir())) == 1 + 1 + 3
    before = {path: path.stat().st_mtime_ns for path in sparse.rglob("run.json")}
    teach(world, **settings, evaluate={"limit": 8, "after": "own_and_last"})  # nothing is missing
    assert {path: path.stat().st_mtime_ns for path in sparse.rglob("run.json")} == before
    assert "not examined" in report.page([sparse]) and "not examined" not in report.page([whole])


def test_a_sweep_of_one_arm_leaves_the_others_alone(world: Path) -> None:
    arms = {"finetune": {}, "rehearsal": ARMS["rehearsal"]}
    sweep = {"arms.rehearsal.rehearsal.ratio": [0.1, 0.4]}
    run = teach(world, arms=arms, training=QUICK, sweep=sweep)
    found = read_json(run / "results.json")
    assert found["unfinished"] == []
    assert [len(found["arms"][arm]["runs"]) for arm in arms] == [1, 2]
    wanted = {each["set"][next(iter(sweep))]: each["rehearsed"][0]["wanted"] for each in _runs(found, "rehearsal")}
    assert wanted[0.4] > wanted[0.1]


def _runs(results: dict[str, Any], arm: str) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = results["arms"][arm]["runs"]
    return runs


def test_an_entry_of_the_curriculum_has_its_own_epochs_and_rows(world: Path) -> None:
    curriculum = [{"task": "sound", "num_train_epochs": 3, "max_samples": 10}, "legs"]
    arms = {"finetune": {}, "apart": {"teach": "specialists"}}
    training = {**QUICK, "tokens_per_batch": None, "per_device_train_batch_size": 5, "max_samples": 20}
    with pytest.MonkeyPatch.context() as patch:
        notes = watched(patch)
        teach(world, arms=arms, curriculum=curriculum, training=training, adapter={"r": 2})
    # (rows, steps): three epochs of two steps, and one of four
    assert [(len(each["rows"]), each["steps"]) for each in notes.lessons] == [(10, 6), (20, 4)] * 2


@pytest.mark.parametrize(("keep", "left"), [("all", ["1", "2"]), ("last", ["2"])])
def test_keep_says_which_models_are_left(world: Path, keep: str, left: list[str]) -> None:
    run = teach(world, arms={"finetune": {}}, training=QUICK, keep=keep)
    folder = run / "arms/finetune/seed0"
    assert sorted(path.name for path in (folder / "after").iterdir()) == left
    assert [row[0] for row in matrix(folder)] == ["after", "base", "sound", "legs"]


def test_a_label_set_is_what_all_rows_share() -> None:
    def row(*choices: str) -> Sample:
        return Sample("t", (Message("user", "q"), Message("assistant", choices[0])), choices, (choices[0],))

    assert label_set([row("a", "b"), row("a", "b")]) == ("a", "b")
    assert label_set([row("a", "b"), row("c", "d")]) == ()


@pytest.mark.parametrize("wished", [None, 20, 500])
def test_a_written_sample_and_its_cue_fit_into_a_row(wished: int | None) -> None:
    from continual.chat import Chat

    chat = Chat(tiny.tokenizer())
    cues = {"legs": ("legs",), "sound": ("a longer cue",)}
    writer = model_writer(Rehearsal(max_new_tokens=wished), chat, cues, dict.fromkeys(cues, ()), {}, 64, 512)
    room = 64 - len(chat.bos_ids) - len(chat.cue_ids("a longer cue"))
    assert writer.max_new_tokens == (20 if wished == 20 else room)
