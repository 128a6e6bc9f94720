"""Model cards, of a run and of each model that it leaves: what was taught, from what, and how well."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
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
        *([f"Form of conversations: {form_words(results['form'])}."] if results.get("form") else []),
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


def adapter_card(manifest: Mapping[str, Any]) -> str:
    """A README in Markdown, with the Hub's front matter, for the folder of an adapter or a whole model.

    Args:
        manifest: see docs/export.md. Of a model from elsewhere only `name`, `base` and `files` are known.
    """
    base, tasks = manifest["base"], manifest.get("tasks", [])
    whole = "adapter_config.json" not in manifest["files"]
    kind = "A language model" if whole else "A LoRA adapter"
    of = f" {'made from' if whole else 'for'} `{base}`" if base else ""
    taught = f", taught {', '.join(f'`{task}`' for task in tasks)}" if tasks else ""
    made = "" if not tasks else " with [continual](https://pypi.org/project/continual/)"
    order = ", in this order," if len(tasks) > 1 and manifest["run"]["teach"] == "sequential" else ""
    lines = [*_front_matter(base, whole), f"# {manifest['name']}", "", f"{kind}{of}{taught}{order}{made}."]
    if base and not is_hub_name(base):
        lines += ["", "The base model is not on the Hub under this name: it is a folder where this was made."]
    if "scores" in manifest:
        lines += ["", "## Scores", "", *_score_table(manifest)]
    lines += ["", "## Use", "", "```python", *_use(whole), "```"]
    if "run" in manifest:
        lines += ["", "## Where it comes from", "", *_origin(manifest)]
    lines += ["", "`manifest.json` says the same for programs, with a hash of every file.", ""]
    return "\n".join(lines)


def form_words(form: Mapping[str, Any]) -> str:
    """Return a sentence on the form in which conversations were taught.

    Args:
        form: see `continual.chat.Chat.form`.
    """
    names = {
        "template": "the base's chat template",
        "plain": "`User:` and `AI:`",
        "none": "text without marks of roles",
    }
    mended = form["name"] == "template" and not form["of_base"]
    changed = ", with a prompt that answers go on from and an end to each answer" if mended else ""
    saved = "" if form["of_base"] else "; it is saved with each model, and the base's own folder has another or none"
    return names[form["name"]] + changed + saved


def is_hub_name(name: str) -> bool:
    """Whether a model's name can be one of the Hub, which refuses a card whose `base_model` is anything else."""
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) is not None and not name.startswith(".")


def _front_matter(base: str | None, whole: bool) -> list[str]:
    lines = ["---", f"library_name: {'transformers' if whole else 'peft'}", "pipeline_tag: text-generation"]
    if base and is_hub_name(base):
        lines.append(f"base_model: {base}")
    tags = ["continual", "continual-learning", *([] if whole else ["lora"])]
    return [*lines, "tags:", *(f"- {tag}" for tag in tags), "---", ""]


def _score_table(manifest: Mapping[str, Any]) -> list[str]:
    scores, metrics = manifest["scores"], manifest["metrics"]
    lines = ["On test rows, in per cent.", "", "| task | metric | untaught base | this |", "|---|---|---|---|"]
    for task, before in scores["base"].items():
        cells = ("" if cell is None else f"{100 * cell:.1f}" for cell in (before, scores.get("own", {}).get(task)))
        name = f"`{task}`" + ("" if task in manifest["tasks"] else ", not taught")
        lines.append(f"| {name} | {metrics.get(task, '')} | {' | '.join(cells)} |")
    return lines


def _use(whole: bool) -> list[str]:
    what = "the name of this repository, or its folder"
    loads = "" if whole else ", which finds the base through adapter_config.json"
    return [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'name = "…"  # {what}{loads}',
        "model, tokenizer = AutoModelForCausalLM.from_pretrained(name), AutoTokenizer.from_pretrained(name)",
    ]


def _origin(manifest: Mapping[str, Any]) -> list[str]:
    run, parents = manifest["run"], manifest["parents"]
    made = f"the run `{run['name']}`, its arm `{run['arm']}` (`teach: {run['teach']}`), seed {run['seed']}"
    point = "".join(f", `{key}={value}`" for key, value in run["set"].items())
    lines = [f"- base: `{manifest['base']}`", f"- made by: {made}{point}, recipe `{run['recipe_hash']}`"]
    known = [(one["name"], one["sha256"]) for one in parents]
    lines += [f"- parent: `{name}`" + (f" (`{hash_[:16]}`)" if hash_ else ", gone since") for name, hash_ in known]
    lines += [f"- rows of `{task}`: `{known}`" for task, known in manifest["data"].items()]
    if manifest.get("form"):
        lines.append(f"- form of conversations: {form_words(manifest['form'])}")
    lines.append(f"- versions: {', '.join(f'{name} {number}' for name, number in manifest['versions'].items())}")
    settings = "\n".join(f"{key}: {json.dumps(value)}" for key, value in manifest["settings"].items())
    return [*lines, "", "```yaml", settings, "```"]
