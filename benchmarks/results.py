"""Print the results of run directories as Markdown, for docs/results.md: no number there is typed by hand.

python benchmarks/results.py runs/quickstart runs/lamol-sst-srl-woz
"""

import argparse
from pathlib import Path
from typing import Any

from continual import results
from continual.report.numbers import MINUS, points

FIGURES = {
    "acc": "ACC",
    "forgetting": "forgetting",
    "bwt": "BWT",
    "fwt": "FWT",
    "gap_to_multitask": "gap to multitask",
    "gap_to_specialists": "gap to specialists",
}


def percent(value: float | None, spread: float | None = None) -> str:
    """A fraction in per cent, with its standard deviation where there is one."""
    if value is None:
        return "–"
    return f"{100 * value:.1f}" + (f" ± {100 * spread:.1f}" if spread is not None else "")


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]


def paired(told: dict[str, Any] | None) -> str:
    """A paired difference in points, with its interval."""
    if told is None:
        return "–"
    value, low, high = (points(number).replace(MINUS, "-") for number in (told["difference"], *told["ci"]))
    return f"{value} [{low}, {high}]"


def arms(collected: dict[str, Any]) -> list[str]:
    rows = []
    for arm, content in collected["arms"].items():
        told = content["mean"], content["std"], content["paired"]
        groups = results.by_set(content["runs"])
        of_groups = [told] if len(groups) == 1 else zip(*told, strict=True)
        for (settings, runs), (mean, std, pair) in zip(groups, of_groups, strict=True):
            costs = [run["cost"] for run in runs]
            n = len(costs)
            rows.append(
                [_label(arm, settings)]
                + [percent(mean.get(key), std.get(key)) for key in FIGURES]
                + [paired(pair), str(n)]
                + [
                    f"{sum(c['seconds'] for c in costs) / n:.0f}",
                    f"{sum(c['train_tokens'] for c in costs) / n:,.0f}",
                    f"{sum(c['generated_tokens'] for c in costs) / n:,.0f}",
                    f"{max(c['peak_bytes'] for c in costs) / 2**20:,.0f}",
                    str(max((c["real_rows_kept"] for c in costs if c["real_rows_kept"] is not None), default="–")),
                ]
            )
    costs = ["s", "tokens trained", "generated", "peak MiB", "real rows kept"]
    return table(["arm", *FIGURES.values(), "paired with multitask", "runs", *costs], rows)


def ends(collected: dict[str, Any]) -> list[str]:
    """Arms × tasks: the last row of R, mean ± standard deviation over runs."""
    rows = []
    for arm, content in collected["arms"].items():
        for settings, runs in results.by_set(content["runs"]):
            columns = list(zip(*(run["R"][-1] for run in runs), strict=True))
            cells = [percent(results.mean(column), results.std(column)) for column in columns]
            rows.append([_label(arm, settings), *cells])
    return table(["arm", *collected["tasks"]], rows)


def square(collected: dict[str, Any]) -> list[str]:
    """Arms × arms: the paired differences."""
    groups = [(arm, one) for arm, content in collected["arms"].items() for one, _ in results.by_set(content["runs"])]
    rows = []
    for arm, settings in groups:
        cells = []
        for other, others in groups:
            wanted = (arm, settings, other, others)
            keys = ("arm", "set", "against", "against_set")
            told = [one for one in collected["paired"] if tuple(one[key] for key in keys) == wanted]
            cells.append(paired(told[0]) if told else "")
        rows.append([_label(arm, settings), *cells])
    return table(["arm", *(_label(*group) for group in groups)], rows)


def _label(arm: str, settings: dict[str, Any]) -> str:
    return f"{arm} {', '.join(f'{k}={v}' for k, v in settings.items())}".strip()


def matrices(collected: dict[str, Any]) -> list[str]:
    lines = []
    for arm, content in collected["arms"].items():
        for run in content["runs"]:
            lines += ["", f"R of {arm}, seed {run['seed']}, order {' → '.join(run['order'])}:", ""]
            names = ["base", *(run["order"] if len(run["R"]) > 2 else ["end"])]
            rows = [[name, *map(percent, row)] for name, row in zip(names, run["R"], strict=False)]
            lines += table(["after", *collected["tasks"]], rows)
    return lines


def rehearsed(collected: dict[str, Any]) -> list[str]:
    rows = []
    for arm, content in collected["arms"].items():
        for run in content["runs"]:
            for entry in run["rehearsed"]:
                reasons = ", ".join(f"{count} {reason}" for reason, count in entry["rejected"].items())
                kept = f"{entry['kept']} of {entry['wanted']}"
                rows.append(
                    [arm, str(run["seed"]), entry["before"], entry["task"], kept, str(entry["drawn"]), reasons]
                )
    header = ["arm", "seed", "before", "rehearsed", "kept of wanted", "drawn", "rejected"]
    return table(header, rows) if rows else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--brief", action="store_true", help="the table of arms only")
    arguments = parser.parse_args()
    for run in arguments.runs:
        collected = results.collect(run)
        print("\n".join(arms(collected)))
        if not arguments.brief:
            print("\n".join([*matrices(collected), "", *rehearsed(collected)]))
        print()


if __name__ == "__main__":
    main()
