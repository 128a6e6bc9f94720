"""Writing whole samples from one cue, as rehearsal does: ours against transformers and the machine's limit.

python -m benchmarks.decode [--model FOLDER] [--data FILE.jsonl.gz] [--output FILE]

The rows end at lengths drawn from real rows, which no engine knows beforehand: ours is told to drop a row when
it has reached its length; `generate` runs each batch to the longest of it. Figures are useful tokens per second.
"""

import random
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure, models, texts
from continual.guard import guard

guard()

import torch  # noqa: E402

from continual.decode import Decoder  # noqa: E402
from continual.request import Request  # noqa: E402
from continual.sampling import Sampling  # noqa: E402

CUE = [5, 6, 7, 8]
LONGEST = 200
BATCHES = (32, 64, 128, 256)
DRAWN = Sampling(temperature=1.0, top_k=20)


def ours(model: Any, wanted: Sequence[int]) -> float:
    """Useful tokens per second of our engine."""

    def run() -> None:
        decoder = Decoder(model, (), 0)
        left = {
            decoder.add(Request(CUE, LONGEST, sampling=DRAWN, seed=seed)): length for seed, length in enumerate(wanted)
        }
        while decoder.busy:
            for event in decoder.step():
                left[event.number] -= 1
                if not left[event.number] and not event.done:
                    decoder.cancel(event.number)
        assert not any(left.values())

    return sum(wanted) / measure.timed(run)


def generate(model: Any, wanted: Sequence[int], batch: int) -> float:
    """Useful tokens per second of `transformers.generate`."""
    order = list(wanted)
    random.Random(1).shuffle(order)

    def run() -> None:
        for start in range(0, len(order), batch):
            part = order[start : start + batch]
            ids = torch.tensor([CUE] * len(part), device=model.device)
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max(part),
                min_new_tokens=max(part),
                do_sample=True,
                top_k=20,
                temperature=1.0,
                pad_token_id=0,
            )

    return sum(wanted) / measure.timed(run)


def measured(name: str, wanted: Sequence[int], repeats: int, batches: Sequence[int]) -> tuple[list[dict], Any]:
    """Rows of the table for one model, and all that was measured."""
    model = models.load(name)
    peers = {f"generate, batch {b}": lambda b=b: generate(model, wanted, b) for b in batches}
    tried = {peer: run() for peer, run in peers.items()}
    kept = measure.finalists(tried)
    limit = "matrix products" if model.device.type == "cpu" else "bfloat16 matrix products"
    flops = 2 * models.multiplied(model)
    dtype = "float32" if model.device.type == "cpu" else "bfloat16"
    contenders = {
        "ours": lambda: ours(model, wanted),
        **{peer: peers[peer] for peer in kept},
        limit: lambda: measure.matmul(dtype) / flops,
    }
    figures = measure.in_turn(contenders, repeats)
    title = models.shown(name, model)
    rows = [measure.row(title, "tokens/s", figures, "ours", peer) for peer in (measure.best(figures, kept), limit)]
    if torch.cuda.is_available() and (peak := measure.peak(torch.cuda.get_device_name())):
        print(f"  {title}: {statistics.median(figures['ours']) * flops / peak:.2%} of the device's bfloat16 peak")
    return rows, {"model": title, "flops_per_token": flops, "trial": tried, "rounds": figures}


def equality(name: str, rows: Sequence[texts.Pair], samples: int, steps: int, batch: int = 64) -> dict[str, Any]:
    """Whether what a row says depends on the batch it is in.

    Returns:
        Shares of sequences that are equal at batch 1 and at a larger one: greedy in float64, drawn in float32.
    """
    model = models.load(name)
    vocabulary = model.config.vocab_size
    prompts = [[i % vocabulary for i in row.prompt[: 4 + n % 24]] or CUE for n, row in enumerate(rows[:batch])]

    def equal(prompts: list[list[int]], sampling: Sampling, seeds: Sequence[int] | None) -> float:
        one, many = (Decoder(model, (), 0, max_rows=n).generate(prompts, steps, sampling, seeds) for n in (1, batch))
        return sum(a.ids == b.ids for a, b in zip(one, many, strict=True)) / len(prompts)

    single = equal([CUE] * samples, DRAWN, range(samples))
    model.double()
    return {
        "model": models.shown(name, model),
        "float64_greedy_equal": equal(prompts, Sampling(), None),
        "float32_drawn_equal": single,
        "samples": samples,
        "tokens_each": steps,
        "batch": batch,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--model", metavar="FOLDER", help="another model, whose tokenizer also reads --data")
    parser.add_argument("--data", type=Path, metavar="FILE", help="rows with the lengths; else the embedded tasks")
    parser.add_argument("--size", nargs="*", default=["30M"], choices=list(models.SIZES), help="random Llamas")
    parser.add_argument("--architectures", nargs="*", default=list(models.ARCHITECTURES))
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES, metavar="N", help="that generate may try")
    parser.add_argument("--equal", type=int, default=512, metavar="N", help="sequences compared at batch 1 and 64")
    given = parser.parse_args(arguments)
    if given.quick:
        given.samples, given.equal, given.size = 16, 8, []
    from transformers.utils.logging import set_verbosity_error

    from continual.model import load_tokenizer

    set_verbosity_error()
    facts = measure.machine(given.threads)
    default = "builtin:tinyworld"
    reader = given.model if given.data and given.model else default
    rows = texts.pairs(given.data, load_tokenizer(reader), 1000)
    wanted = texts.lengths(rows, given.samples, LONGEST)
    shares = statistics.quantiles(wanted, n=10)
    print(
        f"{len(wanted)} samples, {statistics.mean(wanted):.0f} tokens each (tenths {shares[0]:.0f}–{shares[-1]:.0f})"
    )
    names = [default, *([given.model] if given.model else []), *given.size, *given.architectures]
    table, more = [], []
    for name in names:
        found, all_of_it = measured(name, wanted, given.repeats, BATCHES[:1] if given.quick else given.batches)
        table += found
        more.append(all_of_it)
        for one in found:
            print(f"  {one['name']}: {one['ours']:,.0f} tokens/s, {one['ratio']:.2f} x {one['peer_name']}", flush=True)
    equals = [equality(name, rows, given.equal, 8 if given.quick else 64) for name in names[: 1 + bool(given.model)]]
    for one in equals:
        print(
            f"  {one['model']}, batch 1 and {one['batch']}: {one['float64_greedy_equal']:.1%} equal greedily in "
            f"float64, {one['float32_drawn_equal']:.2%} of {one['samples']} drawn in float32"
        )
    measure.finish("decode", facts, table, {"lengths": wanted, "models": more, "equal": equals}, given.output)


if __name__ == "__main__":
    main()
