"""Writes a run directory as `continual run` would leave it, with scores that are made up."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

Row = Sequence[float | None]


def write_run(
    run_dir: Path,
    arms: dict[str, str],
    tasks: Sequence[str] = ("translate", "edit", "answer"),
    *,
    seeds: Sequence[int] = (0,),
    sweep: dict[str, list[Any]] | None = None,
    created: str = "2026-11-22T10:00:00+00:00",
) -> Path:
    """The head of a run directory: manifest.json and recipe.yaml. `arms` maps each arm to what it teaches."""
    run_dir.mkdir(parents=True)
    recipe = {
        "model_name_or_path": "builtin:tinyworld",
        "curriculum": [{"task": task} for task in tasks],
        "arms": {arm: {"teach": teach, "rehearsal": None} for arm, teach in arms.items()},
        "seeds": list(seeds),
        "sweep": sweep or {},
        "output_dir": "runs/fake",
    }
    (run_dir / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    manifest = {
        "schema": 1,
        "name": run_dir.name,
        "created": created,
        "recipe_hash": "0123456789abcdef",
        "versions": {"python": "3.11.2", "torch": "2.13.0"},
        "threads": 1,
        "metrics": dict.fromkeys(tasks, "exact_match"),
        "state": {},
    }
    (run_dir / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return run_dir


def write_arm(
    run_dir: Path,
    arm: str,
    R: Sequence[Row],
    *,
    teach: str = "sequential",
    seed: int = 0,
    tasks: Sequence[str] = ("translate", "edit", "answer"),
    order: Sequence[str] | None = None,
    settings: dict[str, Any] | None = None,
    run: str | None = None,
    cost: dict[str, float] | None = None,
    rehearsed: Sequence[dict[str, Any]] = (),
    answers: dict[str, Sequence[float]] | None = None,
    general: Sequence[dict[str, Any] | None] = (),
    steps: list[str] | None = None,
    spans: list[list[int]] | None = None,
) -> Path:
    """One run of one arm; `R` has its columns in the order of `tasks`, and may lack its last rows.

    `answers`: by task, the score of each test row at the end, to be written as predictions.
    """
    order = list(order or tasks)
    folder = run_dir / "arms" / arm / (run or f"seed{seed}")
    folder.mkdir(parents=True)
    names = (
        ["base", *(steps or order)] if teach == "sequential" else ["base", "all" if teach == "multitask" else teach]
    )
    with (folder / "R.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["after", *tasks])
        for name, row in zip(names, R, strict=False):
            writer.writerow([name, *("" if cell is None else repr(cell) for cell in row)])
    document = {
        "arm": arm,
        "teach": teach,
        "seed": seed,
        "set": settings or {},
        "order": order,
        "steps": steps or order,
        "spans": spans,
        "ci": [[None if c is None else [max(c - 0.03, 0), min(c + 0.03, 1)] for c in row] for row in R],
        "cost": {
            "seconds": 41.5,
            "train_tokens": 190_000,
            "generated_tokens": 0,
            "peak_bytes": 900_000_000,
            "real_rows_kept": 0,
            "stored_bytes": 0,
        }
        | (cost or {}),
        "rehearsed": list(rehearsed),
        "general": list(general),
    }
    (folder / "run.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    for task, scores in (answers or {}).items():
        (folder / "predictions").mkdir(exist_ok=True)
        lines = [
            {"prompt": f"Row {n}\u2028?", "prediction": "yes", "references": [], "score": s}
            for n, s in enumerate(scores)
        ]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / "predictions" / f"{len(R) - 1}-{task}.jsonl").write_text(text, encoding="utf-8")
    return folder


def write_rehearsed(folder: Path, name: str, samples: Sequence[tuple[str, str, str | None]]) -> None:
    """One file of rehearsed samples: (prompt, answer, reason it was rejected for, or None)."""
    (folder / "rehearsed").mkdir(exist_ok=True)
    lines = [
        {
            "messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}],
            "text": f"User: {prompt}\nAI: {answer}",
            "kept": reason is None,
            "reason": reason,
        }
        for prompt, answer, reason in samples
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "rehearsed" / f"{name}.jsonl").write_text(text, encoding="utf-8")
