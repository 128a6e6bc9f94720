"""Every line of the README that is a command or Python, as printed, on a run of the quickstart's recipe."""

import contextlib
import io
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from continual import cli
from continual.recipe import load_recipe

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")

NOT_HERE = {
    "make quickstart": "installs; see test_make_installs_no_more_than_is_needed",
    ". .venv/bin/activate": "of the shell",
    "pip install -c constraints.txt torch==2.13.0 -e .": "installs",
    "continual run chat": "fetches a model; its recipe is checked",
    "continual run chat model_name_or_path=DIR --data-root DATA": "folders of the reader's own; its recipe is checked",
    "continual run quickstart model_name_or_path=Qwen/Qwen3-0.6B training.learning_rate=2e-4": "fetches a model",
    "continual run lamol-sst-srl-woz model_name_or_path=gpt2": "fetches a model",
}
"""Commands that no test can run as printed, and why."""

SLOW = {
    "continual route quickstart": "a router needs models that write their tasks well",
    "continual merge-report quickstart": "sixteen merges, each examined",
}
"""Commands that only the slow test runs, on the quickstart as it is."""

SMALL = (
    "training.max_samples=8",
    "training.num_train_epochs=1",
    "arms.rehearsal.rehearsal.max_tries=1",
    "evaluate.limit=2",
    "output_dir=runs/quickstart",
)
"""The quickstart in seconds: its models know little, but are all there."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def commands() -> list[str]:
    """Every command, in the order printed, without its comment."""
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.strip()]
    return [re.sub(r"\s+# .*", "", line) for line in lines]


def test_no_block_and_no_command_is_left_out() -> None:
    fences = re.findall(r"^```(\w*)$", README, re.M)[::2]
    assert set(fences) == {"sh", "python", "yaml"}
    run_here = [line for line in commands() if line not in NOT_HERE and line not in SLOW]
    assert all(line.startswith("continual ") for line in run_here)
    assert len(run_here) >= 14
    assert set(commands()) >= {*NOT_HERE, *SLOW}, "a reason for a command that is not printed any more"


def test_the_first_screen_is_a_sentence_shell_python_picture_and_table() -> None:
    first = README[: README.index("## ")]
    assert [len(block.splitlines()) for block in blocks("sh")[:2]] == [2, 3]
    assert [len(block.splitlines()) for block in blocks("python")] == [3]
    order = [first.index(mark) for mark in ("```sh", "```python", "![", "| arm |")]
    assert order == sorted(order)
    assert len(README.split("\n\n")[1].splitlines()) <= 2


@pytest.mark.parametrize("command", [line for line in NOT_HERE if line.startswith("continual run")])
def test_the_recipes_that_no_test_can_run_are_right(command: str) -> None:
    _, _, name, *words = shlex.split(command)
    load_recipe(name, [word for word in words if "=" in word])


def test_the_task_that_is_shown_is_the_one_that_is_used() -> None:
    shown = next(block for block in blocks("yaml") if block.startswith("task: airline"))
    assert (ROOT / "docs/airline/airline.yaml").read_text(encoding="utf-8") == shown


def test_make_installs_no_more_than_is_needed() -> None:
    def planned(target: str) -> str:
        always = ["make", "--dry-run", "--always-make", target]
        # What a make above this test tells its children would add lines of its own.
        env = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
        return subprocess.run(always, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout

    installs = [line for line in planned("quickstart").splitlines() if "pip install" in line]
    assert [line.split("pip ")[1] for line in installs] == ["install -c constraints.txt torch==2.13.0 -e ."]
    assert planned("quickstart").splitlines()[-1] == ".venv/bin/continual run quickstart"
    installs = [line for line in planned("test").splitlines() if "pip install" in line]
    assert [line.split("pip ")[1] for line in installs] == ["install -c constraints.txt torch==2.13.0 -e '.[test]'"]


@contextlib.contextmanager
def checkout(folder: Path, *overrides: str) -> Iterator[None]:
    """A folder like a checkout after `make quickstart`."""
    (folder / "docs").symlink_to(ROOT / "docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("continual.serve.server.serve", lambda run, settings, console: print(f"serving {run}"))
        assert typed(f"continual run quickstart {' '.join(overrides)}", patch)[0] == 0
        yield


def typed(command: str, patch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Exit code and output of a command; what reads lines gets one and the end."""
    out = io.StringIO()
    patch.setattr("sys.stdin", io.StringIO("/adapters\n"))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), pytest.raises(SystemExit) as ended:
        cli.main(shlex.split(command)[1:])
    return int(ended.value.code or 0), out.getvalue()


def follow(lines: list[str]) -> None:
    """Type commands one after another; `check` may also say that too much was forgotten."""
    with pytest.MonkeyPatch.context() as patch:
        for line in lines:
            code, out = typed(line, patch)
            assert code == 0 or (code == 1 and line.startswith("continual check")), f"{line}\n{out}"
            assert out.strip(), line
    for block in blocks("python"):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(block, "README.md", "exec"), {})
        assert out.getvalue().startswith("['") and len(out.getvalue()) > 4


def test_each_command_and_each_line_of_python_runs_as_printed(tmp_path: Path) -> None:
    with checkout(tmp_path, *SMALL):
        follow([line for line in commands() if line not in NOT_HERE and line not in SLOW])
        assert (tmp_path / "runs/merged/adapter_model.safetensors").is_file()
        assert (tmp_path / "runs/quickstart+airline/report.html").is_file()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_each_command_runs_as_printed_after_the_whole_quickstart(tmp_path: Path) -> None:
    with checkout(tmp_path):
        follow([line for line in commands() if line not in NOT_HERE])
