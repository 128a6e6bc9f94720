"""The program itself, killed for real: SIGKILL at random moments, and Ctrl-C."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import continual

ROOT = Path(continual.__file__).parent.parent
KILLS = 10

RECIPE = """\
model_name_or_path: model
curriculum: [sound, legs, first]
adapter: {type: lora, r: 2, lora_dropout: 0.2}  # dropout draws at random in every step
training: {learning_rate: 1e-2, num_train_epochs: 15, tokens_per_batch: 128, max_length: 48, save_steps: 4}
arms:
  rehearsal: {teach: sequential, rehearsal: {ratio: 0.3, max_tries: 2}}
  specialists: {teach: specialists}
  multitask: {teach: multitask}
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def folder(world: Path) -> Path:
    (world / "mine.yaml").write_text(RECIPE)
    return world


def start(folder: Path, run: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "continual", "run", "mine.yaml", f"output_dir={run}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # Where tests themselves run in the background, Ctrl-C may be switched off.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate()
    assert process.returncode == 0, errors


def matrices(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("R.csv"))}


def working(process: subprocess.Popen[str], run: Path) -> float:
    """Wait until a run has read its data and begun to work; gives when that was."""
    manifest = run / "manifest.json"
    before = manifest.stat().st_mtime_ns if manifest.exists() else 0
    while process.poll() is None and (not manifest.exists() or manifest.stat().st_mtime_ns == before):
        time.sleep(0.01)
    return time.monotonic()


def stage(run: Path) -> str:
    """How far a run has come: models saved, and whether it is in the middle of a task."""
    inside = any(run.glob("arms/*/*/checkpoints/**/state.json"))
    return f"{len(list(run.rglob('trained.json')))}{'+' if inside else ''}"


def test_killed_at_ten_random_moments_a_run_ends_with_the_same_bytes(folder: Path) -> None:
    process = start(folder, "whole")
    began = working(process, folder / "whole")
    finish(process)
    lasts = time.monotonic() - began
    whole = matrices(folder / "whole")
    assert len(whole) == 3
    cells = {cell for matrix in whole.values() for line in matrix.split(b"\n") for cell in line.split(b",")[1:]}
    assert len(cells) > 6  # or equal bytes would say little

    # A third of the work at most between two deaths: they fall on all parts of it.
    chance, deaths, ends = random.Random(0), [], 0
    while len(deaths) < KILLS or not ends:
        run = folder / f"killed{ends}"
        process = start(folder, run.name)
        working(process, run)
        try:
            process.wait(chance.uniform(0, lasts / 3) if len(deaths) < KILLS else None)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            deaths.append(stage(run))
        else:
            finish(process)
            assert matrices(run) == whole
            ends += 1
    print(f"{lasts:.0f} s of work; {ends} ends; models saved at each death (+: inside a task): {' '.join(deaths)}")
    assert any(death.endswith("+") for death in deaths) and len(set(deaths)) > 2


def test_ctrl_c_says_how_to_go_on(folder: Path) -> None:
    process = start(folder, "stopped")
    until = time.monotonic() + 120
    while not list((folder / "stopped").rglob("trained.json")):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "stopped; go on with: continual run mine.yaml output_dir=stopped"
    assert "Traceback" not in errors
