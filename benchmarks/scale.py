"""Seconds per task as the curriculum grows: training and rehearsal, which should not, and evaluation, which must.

python -m benchmarks.scale [--counts 5 10 20 40] [--budget new_task] [--output FILE]

Tasks of equal size are cut from the embedded ones and taught in order, each with rehearsal of all before it. With
`budget: new_task` (LAMOL's rule) every task comes with the same number of rehearsed samples, shared by the old ones:
a constant cost per task. With `old_task` each old task adds its own share.
"""

import io
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

from benchmarks import measure, texts

PARTS = ("training", "rehearsal", "other", "evaluation", "apart_from_evaluation", "rehearsed", "train_tokens")
"""What is told per task, the first one left out where it has no part: seconds (training with saving; `other` is
reading the data, the base row, the report), rehearsed samples that were kept, tokens."""


def write_tasks(folder: Path, count: int, rows: int, test_rows: int) -> list[str]:
    """`count` task files with rows of their own, in turn from each of the embedded tasks."""
    from continual.task import find_task

    names = []
    each = -(-count // len(texts.TASKS))
    for place, source in enumerate(texts.TASKS):
        task = find_task(source)
        # The dev split of the pieces, a tenth, comes out of these rows.
        samples = {"train": task.samples("train"), "test": task.samples("test")}
        size = {"train": rows * 10 // 9 + 2, "test": test_rows}
        for turn in range(each):
            if place + turn * len(texts.TASKS) >= count:
                break
            name = f"{source}_{turn}"
            names.append((place + turn * len(texts.TASKS), name))
            for split, all_of_them in samples.items():
                start = turn * size[split]
                # More tasks than rows: begin again at the first.
                part = [all_of_them[i % len(all_of_them)] for i in range(start, start + size[split])]
                lines = [{"text": s.messages[0].content, "target": s.messages[-1].content} for s in part]
                text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
                (folder / f"{name}.{split}.jsonl").write_text(text, encoding="utf-8")
            content = {
                "task": name,
                "dataset_path": "json",
                "dataset_kwargs": {"data_files": {split: f"{name}.{split}.jsonl" for split in size}},
                "training_split": "train",
                "test_split": "test",
                "output_type": "generate_until",
                "generation_kwargs": {"max_gen_toks": 16},
                "doc_to_text": "text",
                "doc_to_target": "target",
                "metric_list": [{"metric": "exact_match"}],
            }
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return [name for _, name in sorted(names)]


@contextmanager
def clock(owner: Any, method: str, into: list[float]) -> Iterator[None]:
    """Seconds of every call of a method while inside."""
    real = getattr(owner, method)

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return real(*args, **kwargs)
        finally:
            into.append(time.perf_counter() - start)

    with patch.object(owner, method, timed):
        yield


def run(count: int, given: Any) -> dict[str, Any]:
    """Teach `count` tasks; seconds per task, apart."""
    from rich.console import Console

    from continual import execute
    from continual.material import Material
    from continual.methods.rehearsal import RehearsalPlugin
    from continual.recipe import load_recipe
    from continual.teach import Pupil

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tasks").mkdir()
        tasks = write_tasks(folder / "tasks", count, given.rows, given.test_rows)
        rehearsal = {"budget": given.budget, "ratio": given.ratio, "top_up": False, "max_new_tokens": 64}
        recipe = {
            "model_name_or_path": given.model,
            "curriculum": tasks,
            "training": {"learning_rate": 1e-3, "num_train_epochs": 1, "tokens_per_batch": 1024, "max_length": 128},
            "arms": {"rehearsal": {"teach": "sequential", "rehearsal": rehearsal}},
            "evaluate": {"limit": given.test_rows},
            "output_dir": str(folder / "run"),
        }
        file = folder / "scale.yaml"
        file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
        writing: list[float] = []
        learning: list[float] = []
        examining: list[float] = []
        loaded = load_recipe(str(file), folders=[folder / "tasks"])
        start = time.perf_counter()
        with (
            clock(RehearsalPlugin, "after_train_dataset_adaptation", writing),
            clock(Pupil, "learn", learning),
            clock(Material, "examine", examining),
        ):
            execute.run(
                loaded,
                data_root=None,
                task_folders=[folder / "tasks"],
                fresh=False,
                console=Console(file=io.StringIO()),
            )
        whole = time.perf_counter() - start
        record = json.loads((folder / "run" / "results.json").read_text(encoding="utf-8"))
        costs = record["arms"]["rehearsal"]["runs"][0]
    # The first task has nothing to rehearse: it would make short curricula look cheap.
    later = count - 1
    return {
        "tasks": count,
        "training": (sum(learning[1:]) - sum(writing[1:])) / later,
        "rehearsal": sum(writing[1:]) / later,
        "other": (whole - sum(learning) - sum(examining)) / count,
        "evaluation": sum(examining) / count,
        "apart_from_evaluation": sum(learning[1:]) / later,
        "rehearsed": sum(entry["kept"] for entry in costs["rehearsed"]) / later,
        "train_tokens": costs["cost"]["train_tokens"] / count,
        "learning_of_each": learning,
        "rehearsal_of_each": writing,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--model", default="builtin:tinyworld", metavar="FOLDER")
    parser.add_argument("--counts", type=int, nargs="+", default=[5, 10, 20, 40])
    parser.add_argument("--rows", type=int, default=200, help="training rows of each task")
    parser.add_argument("--test-rows", type=int, default=5)
    parser.add_argument("--budget", choices=["new_task", "old_task"], default="new_task")
    parser.add_argument("--ratio", type=float, default=0.2)
    given = parser.parse_args(arguments)
    if given.quick:
        given.counts, given.rows, given.test_rows = [2, 3], 10, 2
    facts = measure.machine(given.threads)
    run(2, given)  # what is imported and compiled at the first use belongs to no task
    runs: dict[int, list[dict[str, Any]]] = {count: [] for count in given.counts}
    for _ in range(given.repeats):
        for count in given.counts:
            runs[count].append(run(count, given))
            parts = ", ".join(f"{part} {runs[count][-1][part]:.2f}" for part in PARTS[:4])
            print(f"  {count} tasks, seconds per task: {parts}", flush=True)
    print("seconds per task, medians")
    print("  tasks" + "".join(f"{part.replace('_', ' '):>23}" for part in PARTS))
    for count in given.counts:
        middle = [statistics.median(one[part] for one in runs[count]) for part in PARTS]
        print(f"  {count:>5}" + "".join(f"{value:>23,.3f}" for value in middle))
    first = given.counts[0]
    figures = {f"{n} tasks": [one["apart_from_evaluation"] for one in runs[n]] for n in given.counts}
    # Seconds: a ratio above 1 is slower than the shortest curriculum.
    rows = [
        measure.row(f"apart from evaluation, {count} tasks", "s per task", figures, f"{count} tasks", f"{first} tasks")
        for count in given.counts[1:]
    ]
    settings = {"budget": given.budget, "ratio": given.ratio, "rows": given.rows}
    measure.finish("scale", facts, rows, {"settings": settings, "runs": runs}, given.output)


if __name__ == "__main__":
    main()
