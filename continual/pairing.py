"""From the predictions of a run directory to the paired differences between its arms."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from continual.paired import Place, accs, difference
from continual.score import METRICS

Group = tuple[str, dict[str, Any], list[dict[str, Any]]]
"""An arm, the settings that all of its runs share, and those runs."""


def compare(
    run_dir: Path, groups: Sequence[Group], tasks: Sequence[str], metrics: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Each arm against each other one, at the same settings, over the rows of the last row of R.

    Args:
        groups: finished runs only; one that was taught other tasks than `tasks` is passed over.
        tasks: of the curriculum.
        metrics: by task. A task whose score is not a mean over rows (two correlations of GLUE) is left out.

    Returns:
        Entries ``{arm, set, against, against_set, difference, ci, runs, left_out}``, both ways round; none for
        runs without predictions on disk, and none for arms that have no pair of runs.
    """
    kept: list[tuple[int, Place, dict[str, list[float]]]] = []
    left_out = sorted(task for task, metric in metrics.items() if _is_whole(metric))
    for number, (arm, _, runs) in enumerate(groups):
        for run in (run for run in runs if set(run["order"]) == set(tasks)):
            scores = _row_scores(run_dir / "arms" / arm / run["run"], run, left_out)
            if scores:
                kept.append((number, (run["seed"], _order(run)), scores))
    resampled: list[dict[Place, Any]] = [{} for _ in groups]
    # A sweep over evaluate.limit has runs of other rows; such runs are not compared.
    for rows in dict.fromkeys(_rows(scores) for _, _, scores in kept):
        same = [one for one in kept if _rows(one[2]) == rows]
        for (number, place, _), values in zip(same, accs([scores for _, _, scores in same]), strict=True):
            resampled[number][place] = values
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for a, b in combinations(range(len(groups)), 2):
        told = difference(resampled[a], resampled[b]) if _comparable(groups[a], groups[b]) else None
        if told is None:
            continue
        for one, other, sign in ((a, b, 1), (b, a, -1)):
            # + 0.0 makes a zero of -0.0.
            ends = sorted((sign * told.low + 0.0, sign * told.high + 0.0))
            found[one, other] = {
                "arm": groups[one][0],
                "set": groups[one][1],
                "against": groups[other][0],
                "against_set": groups[other][1],
                "difference": sign * told.value + 0.0,
                "ci": ends,
                "runs": told.runs,
                "left_out": left_out,
            }
    return [found[pair] for pair in sorted(found)]


def _is_whole(metric: str) -> bool:
    return metric in METRICS and METRICS[metric].whole is not None


def _rows(scores: Mapping[str, Sequence[float]]) -> tuple[tuple[str, int], ...]:
    return tuple((task, len(each)) for task, each in sorted(scores.items()))


def _order(run: dict[str, Any]) -> tuple[str, ...] | None:
    return tuple(run["order"]) if run["teach"] == "sequential" else None


def _comparable(one: Group, other: Group) -> bool:
    """Whether two groups are different arms that agree in every setting that both name."""
    return one[0] != other[0] and all(other[1].get(key, value) == value for key, value in one[1].items())


def _row_scores(folder: Path, run: dict[str, Any], left_out: Sequence[str]) -> dict[str, list[float]]:
    """By task, the score of each test row at the end; empty where a file is missing."""
    last, found = len(run["R"]) - 1, {}
    for task in run["order"]:
        path = folder / "predictions" / f"{last}-{task}.jsonl"
        if task in left_out:
            continue
        if not path.exists():
            return {}
        lines = path.read_text(encoding="utf-8").split("\n")
        found[task] = [float(json.loads(line)["score"]) for line in lines if line]
    return found
