"""LoRA on a real model: training against TRL, another checkout and the limit; writing against `generate`.

Run by `python -m benchmarks.train --model FOLDER --lora`.
"""

import copy
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import decode, loops, measure, models, texts
from benchmarks.loops import Setting
from continual.guard import guard

guard()

import torch  # noqa: E402
from torch import nn  # noqa: E402

from continual.decode import Decoder  # noqa: E402
from continual.fold import folded  # noqa: E402
from continual.model import add_adapter, load_tokenizer  # noqa: E402
from continual.precision import has_bfloat16  # noqa: E402

ADAPTER = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
LIMIT = "the limit: products alone"
TRIALS = [(False, 4), (False, 8), (False, 16), (True, 1), (True, 4)]
"""Of TRL: packed or not, and rows of a batch."""
BUSY = "while True: pass"


@dataclass(frozen=True)
class Options:
    """What is measured."""

    model: str
    data: Path | None
    rows: int
    tokens_per_step: int
    samples: int
    """To be written."""
    against: Path | None
    """Another checkout of this project."""
    bf16: bool
    repeats: int
    quick: bool


def measured(options: Options) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of the table, and all that was measured."""
    tokenizer = load_tokenizer(options.model)
    start = models.load(options.model)
    rows = texts.pairs(options.data, tokenizer, options.rows)
    tokens = sum(len(row.ids) for row in rows)
    setting = Setting(rows, max(1, round(options.tokens_per_step * len(rows) / tokens)))
    print(f"{len(rows)} rows, {tokens / len(rows):.0f} tokens each, {setting.rows_per_step} rows a step", flush=True)

    def rate(loop: Callable[..., loops.Taken], part: Setting = setting) -> float:
        student = add_adapter(copy.deepcopy(start), ADAPTER, 0)
        return part.tokens / loop(student, part).seconds

    peers = _peers(tokenizer, options)
    sample = replace(setting, rows=rows[: max(setting.rows_per_step, len(rows) // 3)])
    tried = {name: rate(loop, sample) for name, loop in peers.items()}
    for name, figure in tried.items():
        print(f"  tried: {name:<32}{figure:8.0f} tokens/s", flush=True)
    finalists = measure.finalists(tried) if tried else []
    precisions = {"float32": False, **({"bf16": True} if options.bf16 else {})}
    contenders: dict[str, Callable[[], float]] = {}
    for name, bf16 in precisions.items():
        contenders[f"ours, {name}"] = partial(rate, partial(loops.ours, bf16=bf16))
        contenders[f"ours with sample loss, {name}"] = partial(rate, partial(loops.ours, bf16=bf16, sample_loss=True))
        if options.against is not None:
            contenders[f"the other checkout, {name}"] = partial(_other, options, bf16)
    contenders |= {name: partial(rate, peers[name]) for name in finalists}
    micro_batch = _micro_batch(setting)
    share = sum(len(row.answer) for row in rows) / tokens
    contenders[LIMIT] = partial(limit, start, micro_batch, share)
    figures = measure.in_turn(_shown(contenders), options.repeats)
    title = models.shown(options.model, start)
    pairs = [
        pair
        for name in precisions
        for pair in (
            *([(f"ours, {name}", f"the other checkout, {name}")] if options.against is not None else []),
            *([(f"ours, {name}", measure.best(figures, finalists))] if finalists else []),
            (f"ours, {name}", LIMIT),
            (f"ours with sample loss, {name}", f"ours, {name}"),
        )
    ]
    table = [measure.row(f"{title} {ours}", "tokens/s", figures, ours, peer) for ours, peer in pairs]
    written, equal = _writing(start, rows, options)
    table += [measure.row(f"{title} writing", "tokens/s", written, "ours", best) for best in list(written)[1:2]]
    busy = measure.in_turn(_shown(_beside_another(options)), options.repeats)
    table.append(measure.row(f"{title} beside a busy process", "tokens/s", busy, *busy))
    return table, {
        "model": title,
        "micro_batch": micro_batch,
        "supervised": share,
        "tried": tried,
        "rounds": {**figures, **written, **busy},
        "greedy_equal": equal,
    }


def _shown(contenders: Mapping[str, Callable[[], float]]) -> dict[str, Callable[[], float]]:
    """The same, each of which prints its figure: a slow machine takes minutes for one."""

    def run(name: str, contender: Callable[[], float]) -> float:
        figure = contender()
        print(f"  {name:<40}{figure:8.1f} tokens/s", flush=True)
        return figure

    return {name: partial(run, name, contender) for name, contender in contenders.items()}


def _peers(tokenizer: Any, options: Options) -> dict[str, Callable[..., loops.Taken]]:
    if not find_spec("trl"):
        print("TRL is not installed (pip install 'continual[bench]'): left out")
        return {}
    precisions = [False, True] if has_bfloat16("cuda" if torch.cuda.is_available() else "cpu") else [False]
    return {
        f"TRL, {'packed' if packing else 'padded'}, {'bf16' if bf16 else 'float32'}, batch {batch}": partial(
            loops.trl, tokenizer=tokenizer, bf16=bf16, packing=packing, batch=batch
        )
        for bf16 in precisions
        for packing, batch in TRIALS[: 1 if options.quick else None]
    }


def _other(options: Options, bf16: bool) -> float:
    assert options.against is not None
    return _rate({"PYTHONPATH": str(options.against)}, options, ["bf16"] if bf16 else [])


def _rate(settings: dict[str, str], options: Options, flags: Sequence[str]) -> float:
    """Tokens per second in a fresh process with some environment."""
    script = Path(__file__).with_name("rate.py")
    numbers = [str(options.rows), str(options.tokens_per_step)]
    words = [sys.executable, str(script), options.model, str(options.data or ""), *numbers, *flags]
    threads = {} if "look-at-load" in flags else {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    kept = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    place = {"PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(words, env={**kept, **place, **threads, **settings}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return float(done.stdout.split()[-1])


def _beside_another(options: Options) -> dict[str, Callable[[], float]]:
    """Training while another process computes: as the command line does it, and with one thread."""

    def beside(settings: dict[str, str], flags: Sequence[str]) -> float:
        other = subprocess.Popen([sys.executable, "-c", BUSY])
        try:
            return _rate(settings, options, flags)
        finally:
            other.kill()
            other.wait()

    return {
        "as many threads as are free": lambda: beside({}, ["look-at-load"]),
        "one thread": lambda: beside({"OMP_NUM_THREADS": "1"}, []),
    }


def _micro_batch(setting: Setting) -> int:
    """Real tokens of a micro-batch of ours, on average."""
    from continual.batch import Collate
    from continual.chat import Encoded
    from continual.data import Rows, TokenBatches, dataset

    encoded = [Encoded(row.ids, [0] * len(row.prompt) + [1] * len(row.answer), False) for row in setting.rows]
    collate = Collate([], {}, 0)
    per_step = round(setting.rows_per_step * setting.tokens / len(encoded))
    batches = TokenBatches(dataset(Rows(encoded), 0, collate), collate, seed=0, tokens_per_batch=per_step)
    return round(setting.tokens / sum(len(x.step) for x, _, _ in batches))


def limit(model: Any, tokens: int, supervised: float) -> float:
    """Tokens per second if a step were nothing but the products of frozen weights, forward and backward.

    Args:
        tokens: of a micro-batch.
        supervised: the share of them for which the output layer is computed.
    """
    head = model.get_output_embeddings()
    shapes = Counter(
        (module.out_features, module.in_features)
        for module in model.modules()
        if isinstance(module, nn.Linear) and module is not head
    )
    seconds = sum(count * _product(*shape, tokens, model.device) for shape, count in shapes.items())
    seconds += _product(*head.weight.shape, max(1, round(supervised * tokens)), model.device)
    return tokens / seconds


def _product(outputs: int, inputs: int, rows: int, device: Any) -> float:
    """Seconds of x W and of its gradient for x, in the faster precision of two."""
    precisions = [torch.float32, *([torch.bfloat16] if has_bfloat16(device.type) else [])]

    def seconds(dtype: torch.dtype) -> float:
        x = torch.randn(rows, inputs, device=device).to(dtype)
        above = torch.randn(rows, outputs, device=device).to(dtype)
        weight = torch.randn(outputs, inputs, device=device).to(dtype)

        def both() -> None:
            x @ weight.T
            above @ weight

        both()
        times = max(1, int(2e10 / (4 * rows * outputs * inputs)))
        return measure.timed(lambda: [both() for _ in range(times)]) / times

    return min(seconds(dtype) for dtype in precisions)


def _writing(start: Any, rows: Sequence[texts.Pair], options: Options) -> tuple[measure.Figures, float]:
    """Tokens per second of writing samples, ours first and then the best of `generate`; the share of equal answers.

    `generate` is given the adapter merged into the weights, which is its fastest way.
    """
    student = add_adapter(copy.deepcopy(start), ADAPTER, 0)
    with torch.no_grad():
        for name, p in student.named_parameters():
            if "lora_B" in name:
                p.normal_(0, 0.01, generator=torch.Generator().manual_seed(len(name)))
    merged = copy.deepcopy(student).merge_and_unload().eval()
    student.eval()
    wanted = texts.lengths(rows, options.samples)

    def ours() -> float:
        with folded(student):
            return decode.ours(student, wanted)

    batches = [options.samples] if options.quick else [64, options.samples]
    peers = {f"generate, batch {batch}": partial(decode.generate, merged, wanted, batch) for batch in batches}
    figures = measure.in_turn(_shown({"ours": ours, **peers}), options.repeats)
    best = measure.best(figures, list(peers))
    prompts = [row.prompt for row in rows[:20]]
    answers = [output.ids for output in Decoder(student, (), 0).generate(prompts, 16)]
    same = [tuple(_greedy(merged, prompt)) == tuple(ids) for prompt, ids in zip(prompts, answers, strict=True)]
    ordered = {"ours": figures["ours"], best: figures[best]}
    return ordered | {name: figures[name] for name in peers}, sum(same) / len(same)


@torch.no_grad()
def _greedy(model: Any, prompt: list[int]) -> list[int]:
    ids = torch.tensor([prompt], device=model.device)
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, min_new_tokens=16, do_sample=False, pad_token_id=0
    )
    answer: list[int] = out[0, len(prompt) :].tolist()
    return answer
