"""A study is tuned on dev rows and tabled on test rows, by one command that goes on where it stopped."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import make_world

from continual.errors import ContinualError
from continual.recipe import load_recipe
from continual.runs import read_json

ROOT = Path(__file__).parent.parent
STUDY: dict[str, Any] = {
    "model_name_or_path": "model",
    "curriculum": ["sound", "legs"],
    "adapter": {"r": 2},
    "training": {"learning_rate": 1e-2, "num_train_epochs": 1, "tokens_per_batch": 256, "max_length": 48},
    "arms": {
        "finetune": {"teach": "sequential"},
        "specialists": {"teach": "specialists"},
        "relabelled": {"rehearsal": {"ratio": 0.2, "max_tries": 1, "relabel": "specialist"}},
        "multitask": {"teach": "multitask"},
    },
    "evaluate": {"limit": 4, "after": "own_and_last"},
    "seeds": [0, 1],
    "sweep": {"curriculum": [["sound", "legs"], ["legs", "sound"]]},
    "tuning": {"learning_rate": [1e-4, 1e-2]},
    "while_tuning": {"evaluate.limit": 3},
}


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def write(world: Path, **changes: Any) -> Path:
    data = {**STUDY, "model_name_or_path": str(world / "model"), **changes}
    path = world / "tiny.yaml"
    given = {key: value for key, value in data.items() if value is not None}
    path.write_text(yaml.safe_dump(given, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("study"))


@pytest.mark.parametrize("file", sorted((ROOT / "benchmarks/studies").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_study_is_a_recipe_with_the_same_trials_for_each_arm(file: Path, tmp_path: Path) -> None:
    from benchmarks import study

    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    known = tmp_path / file.name
    known.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    found = study.load(str(known), out=tmp_path / "out")
    assert found.recipe.evaluate.after == "own_and_last"
    assert (found.recipe.evaluate.split == "dev") == (file.stem == "ablation")
    for arm in found.recipe.arms:
        jobs = study.trials(found, arm, {})
        assert len(jobs) == len(found.points) and len({job.name for job in jobs}) == len(jobs)
        assert {job.data["evaluate"]["split"] for job in jobs} == {"dev"}
    cells = study.cells(found, {})
    in_order = sum(arm.teach == "sequential" for arm in found.recipe.arms.values())
    orders, seeds = len(found.recipe.sweep["curriculum"]), len(found.recipe.seeds)
    assert len(cells) == seeds * (in_order * orders + len(found.recipe.arms) - in_order)


def test_jobs_split_a_study_without_teaching_anything_twice(world: Path, tmp_path: Path) -> None:
    from benchmarks import study

    found = study.load(str(write(world)), out=tmp_path / "out")
    chosen = {"finetune": {"learning_rate": 5.0}, "specialists": {"learning_rate": 6.0}}
    cells = study.cells(found, chosen)
    assert [(job.arms, job.data["seeds"]) for job in cells] == [
        *[(("finetune",), [0])] * 2, *[(("finetune",), [1])] * 2,
        (("specialists", "relabelled"), [0]), (("specialists", "relabelled"), [1]),
        (("multitask",), [0]), (("multitask",), [1]),
    ]  # fmt: skip
    assert [job.data["sweep"]["curriculum"] for job in cells[:2]] == [[["sound", "legs"]], [["legs", "sound"]]]
    assert cells[0].data["arms"]["finetune"]["training"] == {"learning_rate": 5.0}
    assert cells[-1].data["arms"]["multitask"]["training"] == {}
    (first, second) = study.trials(found, "relabelled", chosen)
    assert first.data["arms"]["specialists"]["training"] == {"learning_rate": 6.0}
    assert [job.data["arms"]["relabelled"]["training"]["learning_rate"] for job in (first, second)] == [1e-4, 1e-2]
    assert first.data["seeds"] == [0] and first.data["sweep"]["curriculum"] == [["sound", "legs"]]
    assert first.data["evaluate"] == {"limit": 3, "after": "own_and_last", "split": "dev"}


def test_a_quick_study_is_one_trial_one_seed_and_one_order(world: Path, tmp_path: Path) -> None:
    from benchmarks import study

    found = study.load(str(write(world)), quick=True, out=tmp_path / "out")
    assert found.points == [{"learning_rate": 1e-4}]
    assert found.recipe.seeds == (0,) and found.recipe.sweep["curriculum"] == (["sound", "legs"],)
    assert found.recipe.training.max_samples == 8 and found.recipe.training.num_train_epochs == 1
    (job,) = study.trials(found, "finetune", {})
    assert job.data["evaluate"]["limit"] == 4


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["training.learning_rat=1"], "unknown key 'learning_rat'|learning_rat"),
        (["tuning.learning_rate=[-1]"], "tuning: learning_rate: "),
        (["tuning.max_length=[8]"], "tuning: max_length: is the same for all arms"),
        (["arms.fine={}"], None),
    ],
)
def test_mistakes_are_told_before_anything_is_run(
    world: Path, tmp_path: Path, sets: list[str], said: str | None
) -> None:
    from benchmarks import study

    if said is None:
        assert "fine" in study.load(str(write(world)), sets, out=tmp_path / "out").recipe.arms
        return
    with pytest.raises(ContinualError, match=said):
        study.load(str(write(world)), sets, out=tmp_path / "out")
    with pytest.raises(ContinualError, match="no study 'lamo'; there are ablation, "):
        study.load("lamo")
    with pytest.raises(ContinualError, match="no arm lamol; the study has finetune, "):
        study.load(str(write(world)), arms=["finetune", "lamol"], out=tmp_path / "out")
    assert list(study.load(str(write(world)), arms=["finetune"], out=tmp_path / "out").recipe.arms) == ["finetune"]


def test_a_study_is_tuned_taught_gathered_and_goes_on(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import learning
    from continual import results

    arms = {name: STUDY["arms"][name] for name in ("finetune", "multitask")}
    path, out = write(world, arms=arms, seeds=[0]), tmp_path / "out"
    command = [str(path), "--out", str(out), "--json", str(tmp_path / "told.json"), "--stage"]
    with pytest.raises(ContinualError, match="nothing was chosen yet"):
        learning.main([*command, "test"])
    # As in a process of its own, but without its start.
    calls: list[list[str]] = []
    monkeypatch.setattr(learning, "start", lambda words, threads, log: Called(words, calls))
    learning.main([*command[:-1], "--jobs", "1"])
    assert len(calls) == 2 * 2 + 2 + 1  # trials; two orders of finetune, and multitask

    chosen = read_json(out / "chosen.json")
    assert set(chosen) == set(arms)
    for arm, entry in chosen.items():
        accs = [trial["acc"] for trial in entry["trials"]]
        assert entry["acc"] == max(accs)
        assert entry["training"] == STUDY_POINTS[accs.index(max(accs))], arm
        for trial in (out / "tune").glob(f"{arm}-????????/recipe.yaml"):
            assert yaml.safe_load(trial.read_text(encoding="utf-8"))["evaluate"]["split"] == "dev"
    found = read_json(out / "results.json")
    assert found["unfinished"] == [] and found == results.collect(out)
    assert [len(found["arms"][arm]["runs"]) for arm in arms] == [2, 1]
    assert found["arms"]["finetune"]["paired"]["runs"] == 2
    assert not list(out.rglob("*.safetensors"))
    text = capsys.readouterr().out
    assert text.count("the untaught base") == 2  # once on dev rows, once on test rows
    assert "| arm | ACC |" in text and "| arm | sound | legs |" in text
    assert "trials for each arm: 2" in text and "| finetune |" in text
    assert json.loads((tmp_path / "told.json").read_text(encoding="utf-8"))["arms"] == found["arms"]

    calls.clear()
    learning.main(command[:-1])
    again = capsys.readouterr().out
    assert calls == [] and again and text.endswith(again)
    recipe = load_recipe(str(out / "recipe.yaml"), (), [world / "tasks"])
    assert recipe.arms["finetune"].training == chosen["finetune"]["training"]
    learning.main([*command[:-1], "--set", "seeds=[0,1]"])
    assert len(calls) == 3  # the new seed only
    assert len(read_json(out / "results.json")["arms"]["finetune"]["runs"]) == 4
    capsys.readouterr()
    learning.main([*command, "table", "--arms", "finetune"])
    assert list(read_json(out / "results.json")["arms"]) == ["finetune"] and set(
        read_json(out / "chosen.json")
    ) == set(arms)
    learning.main([*command, "table"])
    assert text.endswith(capsys.readouterr().out.rpartition("\n\n| arm | ACC |")[2]) and len(calls) == 3


STUDY_POINTS = [{"learning_rate": 1e-4}, {"learning_rate": 1e-2}]


class Called:
    """Stands for a process that carries out a run."""

    def __init__(self, words: list[str], calls: list[list[str]]) -> None:
        self.words, self.calls = words, calls

    def terminate(self) -> None: ...

    def wait(self) -> int:
        from continual.cli import main

        self.calls.append(self.words)
        try:
            main(self.words)
        except SystemExit as end:
            return int(end.code or 0)
        return 0


def test_a_job_that_fails_is_named_after_the_others_have_run(world: Path, tmp_path: Path) -> None:
    from benchmarks import learning, study

    found = study.load(str(write(world, arms={"finetune": {}}, seeds=[0], sweep=None)), out=tmp_path / "out")
    runner = learning.Runner(found, ["--tasks", str(world / "nowhere")], 1, 1, False)
    with pytest.raises(ContinualError, match=r"cells/finetune-seed0 failed; see .*finetune-seed0\.log"):
        runner.carry_out(study.cells(found, {}))
    assert "no such folder" in (tmp_path / "out/cells/finetune-seed0.log").read_text(encoding="utf-8")
