"""OpenMP threads: how they wait, and how many a command takes on a busy machine."""

from __future__ import annotations

import math
import os

WAITING = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
"""Threads that wait sleep, in the words of the OpenMP standard, of GNU and of Intel."""
CHOSEN_BY_USER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
LOOK = 0.25
"""Seconds for which the load is observed."""


def sleep_while_waiting() -> None:
    """Make idle OpenMP threads sleep, unless the environment decides it.

    OpenMP reads the environment when it is loaded, which is when torch is imported: call this
    before. By default threads spin, and on a machine with another busy process they then take
    the cores from those that have work.
    """
    for name, value in WAITING.items():
        os.environ.setdefault(name, value)


def threads_for(cores: int, busy: float) -> int:
    """Return how many threads to take.

    Args:
        cores: of the machine.
        busy: how many of them others use, on average.
    """
    return max(1, math.floor(cores - busy + 0.5))


def fit_to_load() -> str | None:
    """Lower torch's threads to the cores that are free now; leave what the environment says.

    Returns:
        What was done, in a line; None where nothing was.
    """
    if any(name in os.environ for name in CHOSEN_BY_USER):
        return None
    import psutil
    import torch

    cores = psutil.cpu_count() or 1
    busy = cores * psutil.cpu_percent(interval=LOOK) / 100
    before = torch.get_num_threads()
    threads = min(before, threads_for(cores, busy))
    if threads == before:
        return None
    torch.set_num_threads(threads)
    return (
        f"other programs use {busy:.1f} of {cores} cores: computing with {threads} of {before} "
        "threads (OMP_NUM_THREADS=N decides otherwise)"
    )
