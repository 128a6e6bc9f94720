"""One epoch of fine-tuning: ours against TRL's SFTTrainer, a bucketed plain loop, LAMOL's two passes, and the limit.

python -m benchmarks.train [--model FOLDER] [--data FILE.jsonl.gz] [--output FILE]        (needs the extra `bench`)
python -m benchmarks.train --model FOLDER --lora [--against CHECKOUT] [--bf16]      (see benchmarks/lora.py)

Same rows, same starting weights, same rows per step, loss on the same tokens. Figures are real tokens of the data
per second: padding does not count, and a row that is read twice counts once.
"""

import copy
import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import loops, measure, models, texts
from benchmarks.loops import Setting, Taken

LIMIT = "float32 matrix products"
Loop = Callable[[Any, Setting], Taken]


def contenders(tokenizer: Any, quick: bool) -> dict[str, dict[str, Loop]]:
    """Groups of loops: ours, and of each peer the settings of which the best is taken."""
    both = [False, True]
    peers: dict[str, dict[str, Loop]] = {}
    if find_spec("trl"):
        peers["TRL"] = {
            f"TRL, {'packed' if packing else 'padded'}, {'bf16' if bf16 else 'float32'}, batch {batch}": partial(
                loops.trl, tokenizer=tokenizer, bf16=bf16, packing=packing, batch=batch
            )
            for packing in both
            for bf16 in (both if not quick else [False])
            for batch in ((8, 16, 32) if not quick else (8,))
        }
    else:
        print("TRL is not installed (pip install 'continual[bench]'): left out")
    peers["plain"] = {"plain loop, bucketed": loops.plain}
    peers["LAMOL"] = {
        f"two passes, {'bucketed' if bucketed else 'random batches'}": partial(
            loops.plain, bucketed=bucketed, two_passes=True
        )
        for bucketed in both
    }
    return {
        "ours": {
            "ours, float32": loops.ours,
            "ours, bf16": partial(loops.ours, bf16=True),
            "ours with sample loss, float32": partial(loops.ours, sample_loss=True),
            "ours with sample loss, bf16": partial(loops.ours, sample_loss=True, bf16=True),
        },
        **peers,
    }


def measured(name: str, setting: Setting, tokenizer: Any, repeats: int, quick: bool) -> tuple[list[dict], Any]:
    """Rows of the table for one model, and all that was measured."""
    start = models.load(name)
    title = models.shown(name, start)
    per_token = 6 * models.multiplied(start)
    groups = contenders(tokenizer, quick)
    curves: dict[str, list[float]] = {}

    def rate(label: str, loop: Loop, part: Setting = setting) -> float:
        taken = loop(copy.deepcopy(start), part)
        curves[label] = loops.tenths(taken.losses)
        return part.tokens / taken.seconds

    # A quarter of the rows is enough to see which settings of a peer are worth a full measurement.
    sample = replace(setting, rows=setting.rows[: max(setting.rows_per_step, len(setting.rows) // 4)])
    trial: dict[str, float] = {}
    kept: dict[str, list[str]] = {}
    for peer in list(groups)[1:]:
        tried = (
            {label: rate(label, loop, sample) for label, loop in groups[peer].items()} if len(groups[peer]) > 1 else {}
        )
        kept[peer] = measure.finalists(tried) if tried else list(groups[peer])
        trial |= tried
    chosen = {**groups["ours"], **{label: groups[peer][label] for peer in kept for label in kept[peer]}}
    rounds: dict[str, Callable[[], float]] = {label: partial(rate, label, loop) for label, loop in chosen.items()}
    rounds[LIMIT] = lambda: measure.matmul("float32") / per_token
    rounds["bfloat16 matrix products"] = lambda: measure.matmul("bfloat16") / per_token
    figures = measure.in_turn(rounds, repeats)

    sft = [label for label in groups["ours"] if "sample" not in label]
    cued = [label for label in groups["ours"] if "sample" in label]
    against = [(sft, measure.best(figures, kept[peer])) for peer in kept if peer != "LAMOL"]
    against += [(cued, measure.best(figures, kept["LAMOL"])), (sft, LIMIT), (sft, "bfloat16 matrix products")]
    rows = [
        measure.row(f"{title} {ours.removeprefix('ours').strip(' ,')}", "tokens/s", figures, ours, peer)
        for labels, peer in against
        for ours in labels
    ]
    print(f"{title}: mean training loss of the epoch, and of each tenth of it")
    for label in chosen:
        curve = curves[label]
        print(f"  {label:<34}{statistics.mean(curve):6.3f} |" + "".join(f"{loss:7.3f}" for loss in curve), flush=True)
    _utilisation(title, figures, per_token)
    shown = {label: curves[label] for label in chosen}
    return rows, {"model": title, "flops_per_token": per_token, "trial": trial, "rounds": figures, "losses": shown}


def _utilisation(title: str, figures: measure.Figures, per_token: int) -> None:
    import torch

    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        top = measure.peak(name) or measure.matmul("bfloat16")
        for label in ("ours, float32", "ours, bf16"):
            print(f"  {title} {label}: {statistics.median(figures[label]) * per_token / top:.1%} of {name}'s peak")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--model", metavar="FOLDER", help="another model, whose tokenizer reads --data")
    parser.add_argument("--data", type=Path, metavar="FILE", help="rows for it and for random models")
    parser.add_argument("--size", nargs="*", default=["30M"], choices=list(models.SIZES), help="random Llamas")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--large-rows", type=int, default=256, help="rows for the random Llamas")
    parser.add_argument("--rows-per-step", type=int, default=32)
    parser.add_argument("--lora", action="store_true", help="only --model, with an adapter: training and writing")
    parser.add_argument("--tokens-per-step", type=int, default=512, help="with --lora")
    parser.add_argument("--samples", type=int, default=200, help="with --lora: samples to write")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="with --lora: another one")
    parser.add_argument("--bf16", action="store_true", help="with --lora: bf16 as well")
    given = parser.parse_args(arguments)
    if given.lora and not given.model:
        parser.error("--lora needs --model")
    if given.quick:
        given.rows, given.size, given.rows_per_step = 40, [], 8
    warnings.filterwarnings("ignore")
    from transformers.utils.logging import set_verbosity_error

    from continual.model import load_tokenizer

    set_verbosity_error()
    facts = measure.machine(given.threads)
    if given.lora:
        _lora(given, facts)
        return
    default = "builtin:tinyworld"
    names = [default, *([given.model] if given.model else []), *given.size]
    table, more = [], []
    for name in names:
        # Each model reads what its tokenizer knows; those of random weights read what the best of them reads.
        reader = name if name in (default, given.model) else given.model or default
        data = given.data if reader != default else None
        count = given.large_rows if name in given.size else given.rows
        tokenizer = load_tokenizer(reader)
        setting = Setting(texts.pairs(data, tokenizer, count), given.rows_per_step)
        print(f"{len(setting.rows)} rows, {setting.tokens / len(setting.rows):.0f} tokens each")
        found, all_of_it = measured(name, setting, tokenizer, given.repeats, given.quick)
        table += found
        more.append(all_of_it)
    measure.finish("train", facts, table, {"models": more}, given.output)


def _lora(given: Any, facts: dict[str, Any]) -> None:
    from benchmarks import lora

    found, all_of_it = lora.measured(
        lora.Options(
            model=given.model,
            data=given.data,
            rows=given.rows,
            tokens_per_step=given.tokens_per_step,
            samples=given.samples,
            against=given.against,
            bf16=given.bf16,
            repeats=given.repeats,
            quick=given.quick,
        )
    )
    print(f"  {all_of_it['greedy_equal']:.0%} of 20 greedy answers equal generate's")
    measure.finish("train", facts, found, all_of_it, given.output)


if __name__ == "__main__":
    main()
