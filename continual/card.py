"""The model card of a run: what was taught, from what, and how well; readable on the Hub."""

from __future__ import annotations

from typing import Any


def card(results: dict[str, Any]) -> str:
    """A README in Markdown for a run directory.

    Args:
        results: see docs/reading-results.md.
    """
    tasks = results["tasks"]
    lines = [
        f"# {results['name']}",
        "",
        f"`{results['model']}` taught {', '.join(f'`{task}`' for task in tasks)}, in this order, with "
        "[continual](https://pypi.org/project/continual/). Scores are on test rows, in per cent.",
        "",
        f"| arm | {' | '.join(tasks)} | mean |",
        f"|---|{'---|' * len(tasks)}---|",
    ]
    rows: dict[str, list[float | None]] = {}
    for arm, content in results["arms"].items():
        for run in content["runs"]:
            rows.setdefault("base", run["R"][0])
            name = f"{arm}, seed {run['seed']}" + "".join(f", {key}={value}" for key, value in run["set"].items())
            if run["order"] != tasks:
                name += f", in the order {' '.join(run['order'])}"
            rows[name] = run["R"][-1]
    for name, row in rows.items():
        known = [cell for cell in row if cell is not None]
        mean = f"{100 * sum(known) / len(known):.1f}" if known else ""
        lines.append(f"| {name} | {' | '.join('' if c is None else f'{100 * c:.1f}' for c in row)} | {mean} |")
    lines += ["", "`report.html` has the rest: R after every task, forgetting, costs, rehearsed samples.", ""]
    return "\n".join(lines)
