"""A plugin of Avalanche's or of one's own, by the name of its class: taught, stopped, and spoken of beforehand."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import recipe, teach
from test_resume import Killed, matrices

import continual
from continual import estimate
from continual import teach as teaching
from continual.errors import ContinualError
from continual.runs import read_json

ROOT = Path(continual.__file__).parent.parent

MINE = '''
from avalanche.core import SupervisedPlugin


class Decay(SupervisedPlugin):
    """Weakens the loss a little more at each step; what it was is forgotten with the process."""

    def __init__(self, share: float = 0.9) -> None:
        super().__init__()
        self.share, self.now = share, 1.0

    def before_backward(self, strategy, **kwargs):
        self.now *= self.share
        strategy.loss = strategy.loss * self.now


class Kept(Decay):
    def state_dict(self):
        return {"now": self.now}

    def load_state_dict(self, state):
        self.now = state["now"]
'''

EWC = {"plugin": {"class": "avalanche.training.plugins:EWCPlugin", "args": {"ewc_lambda": 100}}}


@pytest.fixture
def mine(world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A world with a module beside it, where the command is run."""
    (world / "decaying.py").write_text(MINE)
    monkeypatch.chdir(world)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "decaying", raising=False)
    return world


def arm(name: str) -> dict[str, Any]:
    return {"mine": {"plugin": {"class": f"decaying:{name}", "args": {"share": 0.8}}}}


def test_a_plugin_of_avalanches_teaches(world: Path) -> None:
    run = teach(world, arms={"plain": {}, "ewc": EWC}, adapter={"r": 2})
    assert matrices(run)["arms/ewc/seed0/R.csv"]
    told = read_json(run / "arms/ewc/seed0/run.json")
    assert told["cost"]["real_rows_kept"] is None  # nobody can know what it reads
    weights = [run / f"arms/{name}/seed0/after/2/adapter_model.safetensors" for name in ("plain", "ewc")]
    assert weights[0].read_bytes() != weights[1].read_bytes()
    first = [path.parent.parent / "1" / path.name for path in weights]
    assert first[0].read_bytes() == first[1].read_bytes()


@pytest.mark.parametrize("name", ["Decay", "Kept"])
def test_a_stopped_arm_begins_anew_if_its_plugin_keeps_no_state(
    name: str, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The optimizer divides by the size of a gradient; clipping and decay would hide a loss that is merely smaller.
    training = {"learning_rate": 1e-2, "tokens_per_batch": 128, "max_length": 48, "adam_epsilon": 0.1}
    settings = {"arms": arm(name), "training": training}
    whole = matrices(teach(mine, **settings, output_dir=str(mine / "whole")))
    written: list[str] = []
    write = teaching.write_folder

    def dying(folder: Path, fill: Any) -> None:
        written.append(folder.name)
        if written == ["1", "2"] and not restarted:
            raise Killed
        write(folder, fill)

    restarted = False
    monkeypatch.setattr(teaching, "write_folder", dying)
    with pytest.raises(Killed):
        teach(mine, **settings)
    restarted = True
    del written[:]
    run = teach(mine, **settings)
    assert written == (["1", "2"] if name == "Decay" else ["2"])
    assert matrices(run) == whole
    cost, once = (read_json(r / "arms/mine/seed0/run.json")["cost"] for r in (run, mine / "whole"))
    assert cost["train_tokens"] == once["train_tokens"] and cost["real_rows_kept"] is None


def test_the_plan_says_who_would_begin_anew(mine: Path) -> None:
    arms = {"anew": arm("Decay")["mine"], "goes_on": arm("Kept")["mine"], "ewc": EWC}
    told = estimate.warnings(recipe(mine, arms=arms), {}, estimate.BaseSize("m", 1, 1, 128, 4, None))
    anew = [line for line in told if "begins anew" in line]
    assert [line.split(":")[0] for line in anew] == ["arm anew", "arm ewc"]


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        ({"class": "decaying:Lost"}, "plugin.class: there is no 'decaying:Lost'"),
        ({"class": "nowhere:Decay"}, "plugin.class: there is no 'nowhere:Decay'"),
        ({"class": "decaying:Decay", "args": {"shares": 1}}, "plugin.args: decaying:Decay does not take them"),
    ],
)
def test_a_plugin_that_cannot_be_made_is_told_before_anything_is_written(
    plugin: dict[str, Any], message: str, mine: Path
) -> None:
    wrong = {"mine": {"plugin": plugin}}
    with pytest.raises(ContinualError, match=message):
        teach(mine, arms=wrong)
    assert not (mine / "run").exists()
    with pytest.raises(ContinualError, match=message):
        estimate.warnings(recipe(mine, arms=wrong), {}, estimate.BaseSize("m", 1, 1, 128, 4, None))


def test_a_plugin_may_lie_beside_the_recipe(mine: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (mine / "mine.yaml").write_text(
        f"model_name_or_path: {mine / 'model'}\n"
        "curriculum: [sound, legs]\n"
        "training: {learning_rate: 1e-2, max_length: 48}\n"
        "arms:\n  mine: {plugin: {class: 'decaying:Decay'}}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "continual", "run", str(mine / "mine.yaml"), "--dry-run"],
        cwd=tmp_path_factory.mktemp("elsewhere"),
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "300"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "mind: arm mine: its plugin has no state that could be kept" in done.stdout
