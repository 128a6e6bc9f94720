"""Print the results of run directories as Markdown, for docs/results.md: no number there is typed by hand.

python benchmarks/results.py runs/quickstart runs/lamol-sst-srl-woz
"""

import argparse
from pathlib import Path
from typing import Any

from continual import results

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
    return f"{100 * told['difference']:+.1f} [{100 * told['ci'][0]:+.1f}, {100 * told['ci'][1]:+.1f}]"


def arms(collected: dict[str, Any]) -> list[str]:
    rows = []
    for arm, content in collected["arms"].items():
        told = content["mean"], content["std"], content["paired"]
        groups = results.by_set(content["runs"])
        of_groups = [told] if len(groups) == 1 else zip(*told, strict=True)
        for (settings, runs), (mean, std, pair) in zip(groups, of_groups, strict=True):
            swept = ", ".join(f"{k}={v}" for k, v in settings.items())
            costs = [run["cost"] for run in runs]
            n = len(costs)
            rows.append(
                [f"{arm} {swept}".strip()]
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
