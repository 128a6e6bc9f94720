"""Merge what lies in folders: find the adapters, merge them, write an adapter or a model, and say what was done."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from continual import lora, statistics, weights
from continual.errors import ContinualError
from continual.listing import find_run
from continual.lora import Lora
from continual.merge import Merged, changes, check_arguments, check_weights, merge
from continual.merged import check_start
from continual.merges import MERGES
from continual.model import load_model, load_tokenizer, own_type, quantized
from continual.origin import Origin
from continual.problems import did_you_mean
from continual.runs import Run, read_json, write_folder

if TYPE_CHECKING:
    from rich.console import Console

CARD = "merge.yaml"


def numbers(text: str | None) -> list[float] | None:
    """The numbers of ``0.5,0.5``.

    Raises:
        ContinualError: there is something else.
    """
    if text is None:
        return None
    try:
        return [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        raise ContinualError(f"--weights: '{text}' is no list of numbers such as 0.5,0.5") from None


def arguments(density: float | None, pairs: Sequence[str]) -> dict[str, Any]:
    """A method's arguments as they were typed.

    Raises:
        ContinualError: a pair is none.
    """
    found: dict[str, Any] = {} if density is None else {"density": density}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ContinualError(f"--set: '{pair}' should be KEY=VALUE, such as gamma=0.02")
        found[key] = yaml.safe_load(value)
    return found


def adapters(source: str) -> list[Path]:
    """The adapters' folders of a source: itself, those in it, or the specialists of a run in the order of its tasks.

    Raises:
        ContinualError: there is none, the run has several sets of specialists, or they share an adapter that they
            went on with.
    """
    folder = Path(source)
    if (folder / lora.CONFIG).is_file():
        return [folder]
    if found := _inside(folder):
        if folder.name == "specialists" and (folder.parent / "run.json").is_file():
            check_start(folder.parent)
        return found
    run = find_run(source)
    sets = [owner / "specialists" for owner in Run(run).runs() if _inside(owner / "specialists")]
    if not sets:
        raise ContinualError(f"{run}: no arm has specialists; an arm with `teach: specialists` makes them")
    if len(sets) > 1:
        raise ContinualError(f"{run} has several sets of specialists; name one: {', '.join(map(str, sets))}")
    check_start(sets[0].parent)
    order = read_json(sets[0].parent / "run.json")["order"]
    return sorted(_inside(sets[0]), key=lambda adapter: order.index(adapter.name))


def write(
    sources: Sequence[str],
    method: str,
    out: Path,
    shares: Sequence[float] | None,
    rank: int | None,
    scale: float,
    space: str,
    given: Mapping[str, Any],
    *,
    full: bool,
    console: Console,
) -> None:
    """Merge adapters and write the result with its card.

    Args:
        sources: see `adapters`.
        out: a new folder.
        full: write the base model with the change in its weights. Its rank has no limit then, unless one is given.

    Raises:
        ContinualError: something does not fit; nothing was written.
    """
    if method not in MERGES:
        raise ContinualError(f"--method: there is no merge '{method}'{did_you_mean(method, MERGES)}")
    if space not in ("core", "full"):
        raise ContinualError(f"--space: '{space}' is neither core nor full")
    if out.exists():
        raise ContinualError(f"{out} is there already; a merge is written to a new folder")
    settings = check_arguments(method, given)
    folders = [folder for source in sources for folder in adapters(source)]
    loras = [lora.load(folder) for folder in folders]
    kind = MERGES[method].statistics
    options: dict[str, Any] = {"scale": scale, "space": space, **settings.model_dump()}
    if kind is not None:
        options["statistics"] = [statistics.load(kind, folder) for folder in folders]
    whole = full and rank is None
    merged = None if whole else merge(loras, method, shares, rank=rank, **options)
    card = _card(folders, loras, method, shares, scale, space, settings.model_dump(), merged)
    if full:
        if merged is not None:
            change = ((name, b @ a) for name, (a, b) in merged.lora.factors.items())
        else:
            change = ((name, one) for name, one in changes(loras, method, shares, **options))
        origins = [Origin(one.base, one.revision) for one in loras if one.base]
        _write_model(origins[0] if origins else None, change, out, card)
    else:
        assert merged is not None

        def fill(folder: Path) -> None:
            lora.save(merged.lora, folder)
            for name, content in _tokenizer(folders).items():
                (folder / name).write_bytes(content)
            (folder / CARD).write_text(card, encoding="utf-8")

        write_folder(out, fill)
    console.print(f"{len(loras)} adapters merged by {method}: {out}", highlight=False, markup=False, soft_wrap=True)
    if merged is not None:
        low = min(merged.modules, key=lambda name: merged.modules[name])
        more = f", least in {low} ({merged.modules[low]:.1%}); a higher --rank keeps more"
        console.print(
            f"rank {merged.lora.rank} keeps {merged.kept:.1%} of the change's energy"
            + (more if merged.kept < 0.999 else ""),
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _write_model(base: Origin | None, change: weights.Named, out: Path, card: str) -> None:
    if base is None:
        raise ContinualError("no adapter says what its base model is, so there is nothing to write whole")
    model, tokenizer = load_model(base, "float32"), load_tokenizer(base)
    if quantized(model):
        raise ContinualError(f"--full: the weights of {base.name} are quantised, and nothing can be added to them")
    weights.add(model, change)
    model = model.to(own_type(base))

    def fill(folder: Path) -> None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / CARD).write_text(card, encoding="utf-8")

    write_folder(out, fill)


def _card(
    folders: Sequence[Path],
    loras: Sequence[Lora],
    method: str,
    shares: Sequence[float] | None,
    scale: float,
    space: str,
    settings: Mapping[str, Any],
    merged: Merged | None,
) -> str:
    """What was merged, and how: enough to do it again."""
    known = MERGES[method]
    told = {
        "base_model": next((one.base for one in loras if one.base), None),
        "method": method,
        "source": known.source,
        "adapters": [
            {
                "name": folder.name,
                "path": str(folder),
                "sha256": hashlib.sha256((folder / lora.WEIGHTS).read_bytes()).hexdigest(),
                "rank": one.rank,
                "weight": weight,
            }
            for folder, one, weight in zip(folders, loras, check_weights(method, len(loras), shares), strict=True)
        ],
        "arguments": dict(settings),
        "scale": scale,
        "space": space if known.coordinates == "chosen" else None,
        "rank": None if merged is None else merged.lora.rank,
        "kept": None if merged is None else round(merged.kept, 6),
        "kept_by_module": None if merged is None else {name: round(kept, 6) for name, kept in merged.modules.items()},
        "versions": {package: version(package) for package in ("continual", "torch", "peft")},
    }
    return yaml.safe_dump(told, sort_keys=False, allow_unicode=True)


def _tokenizer(folders: Sequence[Path]) -> dict[str, bytes]:
    """The files of the tokenizer and its chat template that lie beside the adapters, where all have the same."""
    found = {}
    for file in (*folders[0].glob("tokenizer*"), *folders[0].glob("chat_template*")):
        contents = {other.read_bytes() if (other := folder / file.name).is_file() else b"" for folder in folders}
        if len(contents) == 1:
            found[file.name] = contents.pop()
    return found


def _inside(folder: Path) -> list[Path]:
    return sorted(
        config.parent for config in folder.glob(f"*/{lora.CONFIG}") if not config.parent.name.startswith(".")
    )
