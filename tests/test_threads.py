"""Threads that sleep while they wait, and as many as there are free cores."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from continual import threads


def environment(code: str, **settings: str) -> list[str]:
    """What a fresh process prints that has no thread settings but these."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_", "MKL_"))
    }
    run = subprocess.run([sys.executable, "-c", code], env={**kept, **settings}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


# What the environment holds at the moment when torch is asked for.
WHEN_TORCH_IS_IMPORTED = """
import builtins, os, sys
real = builtins.__import__
def watch(name, *args, **kwargs):
    if name == "torch":
        print(*(os.environ.get(n) for n in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")))
        sys.stdout.flush()
        os._exit(0)
    return real(name, *args, **kwargs)
builtins.__import__ = watch
from continual.cli import main
main(["run", "quickstart", "--dry-run"])
"""


def test_the_program_makes_waiting_threads_sleep_before_torch_is_imported() -> None:
    assert environment(WHEN_TORCH_IS_IMPORTED) == ["passive", "0", "0"]


def test_what_the_user_has_set_stays() -> None:
    code = (
        "import os; from continual import threads; threads.sleep_while_waiting(); print(os.environ['OMP_WAIT_POLICY'])"
    )
    assert environment(code, OMP_WAIT_POLICY="active") == ["active"]


def test_openmp_reads_what_was_set() -> None:
    code = "from continual import threads; threads.sleep_while_waiting(); import torch; torch.ones(4) @ torch.ones(4)"
    kept = {**os.environ, "OMP_DISPLAY_ENV": "verbose"}
    run = subprocess.run([sys.executable, "-c", code], env=kept, capture_output=True, text=True, check=True)
    shown = run.stderr.upper().replace(" ", "")
    assert "OMP_WAIT_POLICY='PASSIVE'" in shown
    assert "GOMP_SPINCOUNT='0'" in shown


@pytest.mark.parametrize(
    ("cores", "busy", "expected"),
    [(2, 0.0, 2), (2, 0.3, 2), (2, 1.0, 1), (2, 2.0, 1), (2, 15.0, 1), (8, 3.0, 5), (1, 0.0, 1), (64, 0.4, 64)],
)
def test_threads_are_the_cores_that_others_leave_free(cores: int, busy: float, expected: int) -> None:
    assert threads.threads_for(cores, busy) == expected


def machine(monkeypatch: pytest.MonkeyPatch, cores: int, percent: float, of_torch: int) -> list[int]:
    """Pretend to be on a machine; what torch's threads are set to."""
    import psutil

    chosen: list[int] = []
    for name in threads.CHOSEN_BY_USER:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(psutil, "cpu_count", lambda: cores)
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: percent)
    monkeypatch.setattr(torch, "get_num_threads", lambda: of_torch)
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    return chosen


@pytest.mark.parametrize(
    ("cores", "percent", "of_torch", "expected"),
    [(2, 50.0, 2, [1]), (2, 0.0, 2, []), (8, 50.0, 8, [4]), (8, 25.0, 2, []), (2, 100.0, 1, [])],
)
def test_the_threads_are_lowered_to_what_is_free(
    cores: int, percent: float, of_torch: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = machine(monkeypatch, cores, percent, of_torch)
    notice = threads.fit_to_load()
    assert chosen == expected
    assert (notice is not None) == bool(expected)  # nothing is lowered in silence


@pytest.mark.parametrize("name", threads.CHOSEN_BY_USER)
def test_a_number_of_threads_in_the_environment_stands(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = machine(monkeypatch, 2, 100.0, 2)
    monkeypatch.setenv(name, "2")
    assert threads.fit_to_load() is None and chosen == []


def test_a_run_that_goes_on_takes_the_threads_that_it_began_with(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from conftest import teach

    from continual.runs import read_json

    run = teach(world)
    began = read_json(run / "manifest.json")["threads"]
    taken: list[int] = []
    monkeypatch.setattr(threads, "fit_to_load", lambda: pytest.fail("a run that goes on must not look at the load"))
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    teach(world)
    assert taken == [began]


def test_a_new_run_looks_at_the_load_and_records_its_threads(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from conftest import teach

    from continual.runs import read_json

    monkeypatch.setattr(threads, "fit_to_load", lambda: monkeypatch.setattr(torch, "get_num_threads", lambda: 7))
    assert read_json(teach(world) / "manifest.json")["threads"] == 7
