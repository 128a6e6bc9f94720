"""What a run says about itself to others: results.json, the page with its plots, the cards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from continual import lineage, report, results
from continual.card import card
from continual.runs import read_json, write_text


def publish(run_dir: Path) -> dict[str, Any]:
    """Write all of it anew from the files of a run, finished or not; gives the results."""
    lineage.describe(run_dir)
    report.write([run_dir], run_dir / "report.html")
    collected: dict[str, Any] = read_json(run_dir / results.FILE)
    write_text(run_dir / "README.md", card(collected))
    return collected
