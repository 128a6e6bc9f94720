"""What all benchmarks share: contenders measured in turn, the machine's limits, the table and the JSON file."""

import argparse
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("continual", "torch", "transformers", "trl", "accelerate", "avalanche-lib", "datasets", "numpy")
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "4090": 165e12, "B200": 2250e12}
"""Dense bfloat16 FLOP/s from the vendors' data sheets (SXM versions)."""

Figures = dict[str, list[float]]
Contenders = Mapping[str, Callable[[], float]]


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options of every benchmark."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--output", "--json", type=Path, metavar="FILE", help="write every measurement as JSON")
    made.add_argument("--repeats", type=int, default=3, help="rounds; medians are printed")
    made.add_argument("--threads", type=int, default=0, help="of torch; 0: as torch likes")
    made.add_argument("--quick", action="store_true", help="tiny settings: only to see that it runs")
    return made


def in_turn(contenders: Contenders, repeats: int) -> Figures:
    """Each contender once, then each again, so that a change of the machine's mood hits all alike."""
    figures: Figures = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            gc.collect()
            figures[name].append(run())
    return figures


def finalists(tried: Mapping[str, float], n: int = 2) -> list[str]:
    """The settings of a peer that did best in a trial; a single trial is noisy, so more than one goes on."""
    return sorted(tried, key=lambda name: -tried[name])[:n]


def best(figures: Figures, names: list[str]) -> str:
    """The name with the best median."""
    return max(names, key=lambda name: statistics.median(figures[name]))


def row(name: str, unit: str, figures: Figures, ours: str, peer: str) -> dict[str, Any]:
    """One line of the table: medians, and the median of the ratios within each round."""
    pairs = list(zip(figures[ours], figures[peer], strict=True))
    return {
        "name": name,
        "ours": statistics.median(figures[ours]),
        "peer": statistics.median(figures[peer]),
        "peer_name": peer,
        "ratio": statistics.median(mine / theirs for mine, theirs in pairs),
        "unit": unit,
        "repeats": {"ours": figures[ours], "peer": figures[peer]},
    }


def machine(threads: int = 0) -> dict[str, Any]:
    """What was measured on, and with what. Sets torch's threads."""
    facts: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": platform.system(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "versions": {},
    }
    for package in PACKAGES:
        try:
            facts["versions"][package] = version(package)
        except PackageNotFoundError:
            facts["versions"][package] = None
    import torch

    if threads:
        torch.set_num_threads(threads)
    facts["threads"] = torch.get_num_threads()
    facts["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return facts


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )


def matmul(dtype: str = "float32", seconds: float = 1.0) -> float:
    """FLOP/s of large square matrix products: the limit of what any engine here could reach."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(getattr(torch, dtype)) for _ in range(2))
    for _ in range(3):
        a @ b
    _wait()
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        for _ in range(4):
            a @ b
        _wait()
        done += 4
    return done * 2 * size**3 / (time.perf_counter() - start)


def _wait() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(run: Callable[[], Any]) -> float:
    """Seconds that a call takes, the device's work included."""
    _wait()
    start = time.perf_counter()
    run()
    _wait()
    return time.perf_counter() - start


def peak(name: str | None) -> float | None:
    """The data sheet's bfloat16 FLOP/s of a GPU."""
    return next((flops for known, flops in PEAKS.items() if name and known in name.replace(" ", "")), None)


def finish(title: str, facts: dict[str, Any], rows: list[dict[str, Any]], more: Any, output: Path | None) -> None:
    """Print the table; write the file if one is wanted."""
    print(f"\n{title}")
    for one in rows:
        print(
            f"  {one['name']:<44} ours {one['ours']:>12,.4g}   {one['peer']:>12,.4g} {one['unit']:<11} "
            f"{one['ratio']:>7.2f} x  {one['peer_name']}"
        )
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        content = {"schema": 1, "benchmark": title, "machine": facts, "rows": rows, "measured": more}
        output.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"  written to {output}")
