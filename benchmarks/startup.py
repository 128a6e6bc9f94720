"""How long a command takes to answer, and a run to take its first optimizer step.

python -m benchmarks.startup [--output FILE]

Peers are measured where they are installed. Nothing here imports torch: every figure is of a fresh process.
"""

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks import measure

CONTINUAL = [sys.executable, "-m", "continual"]
COMMANDS = {
    "continual --help": ["--help"],
    "continual ls": ["ls"],
    "continual validate quickstart": ["validate", "quickstart"],
}
PEERS = {"llamafactory-cli": ["help"], "lm_eval": ["--help"]}
ENOUGH = 42
"""The exit code of a run that has taken its first step."""
FIRST_STEP = f"""
import os, sys
from continual import progress
# The run's own plugin is told of every step; it ends the process at the first.
progress.TellingPlugin.after_training_iteration = lambda *args, **kwargs: os._exit({ENOUGH})
from continual.cli import main
main(["run", "quickstart", "output_dir=" + sys.argv[1]])
"""


def command(words: Sequence[str]) -> float:
    """Seconds of a command that has to succeed."""
    start = time.perf_counter()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def first_step() -> float:
    """Seconds from `continual run quickstart` to its first optimizer step."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        words = [sys.executable, "-c", FIRST_STEP, str(Path(folder) / "run")]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
    if done.returncode != ENOUGH:
        raise RuntimeError(f"the run took no step: {done.stderr}")
    return seconds


def main(arguments: Sequence[str] | None = None) -> None:
    parser = measure.parser(__doc__)
    parser.set_defaults(repeats=5)
    given = parser.parse_args(arguments)
    contenders: dict[str, Callable[[], float]] = {
        name: partial(command, [*CONTINUAL, *words]) for name, words in COMMANDS.items()
    }
    peers = {f"{name} {words[0]}": [name, *words] for name, words in PEERS.items() if shutil.which(name)}
    contenders |= {name: partial(command, words) for name, words in peers.items()}
    if not given.quick:
        contenders["continual run quickstart, first step"] = first_step
    for run in contenders.values():
        run()  # once for the disk's cache
    figures = measure.in_turn(contenders, given.repeats)
    print("seconds, medians")
    for name, seconds in figures.items():
        print(f"  {name:<40}{statistics.median(seconds):8.2f}   (from {min(seconds):.2f} to {max(seconds):.2f})")
    rows = [measure.row(name, "s", figures, name, peer) for name in COMMANDS for peer in peers]
    measure.finish("startup", measure.machine(given.threads), rows, {"seconds": figures}, given.output)


if __name__ == "__main__":
    main()
