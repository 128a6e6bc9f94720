"""Many adapters on one base: swapping them, and a batch in which each row has its own, against PEFT.

python -m benchmarks.adapters [--hidden N] [--layers N] [--new N] [--output FILE]

A random Llama with random adapters on its seven kinds of linear layers. Our limit is the base model alone in our own
decoder, in one batch of the same size; PEFT's rows decode with `transformers.generate`. `base, generate` tells apart
what the decoder gains and what the bank does. Greedy ids are compared with PEFT's, one adapter at a time, first.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure
from continual.guard import guard

guard()

import torch  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402

from continual.adapters import AdapterBank  # noqa: E402
from continual.decode import Decoder  # noqa: E402
from continual.request import Chosen  # noqa: E402

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ROWS = 8
BASE, OURS, ONE = "base, one batch", "ours, 8 adapters", "ours, one adapter"
MIXED, LOOP, GENERATE = "PEFT adapter_names", "PEFT set_adapter, one at a time", "base, generate"


def base(hidden: int, layers: int) -> Any:
    """A random Llama: with the defaults 8.3 million parameters."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama",
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=6,
        vocab_size=4096,
        max_position_embeddings=512,
        tie_word_embeddings=False,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def with_peft(model: Any, n: int) -> Any:
    """A PEFT model with adapters `a0`, `a1` and so on, whose changes are not small."""
    config = LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS, task_type="CAUSAL_LM")
    made = get_peft_model(model, config, adapter_name="a0")
    for i in range(1, n):
        made.add_adapter(f"a{i}", config)
    draw = torch.Generator().manual_seed(1)
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            parameter.data = (torch.randn(parameter.shape, generator=draw) * 0.05).to(parameter)
    made.set_adapter("a0", inference_mode=True)
    return made.eval()


def ours_of(peft: Any, model: Any, n: int) -> AdapterBank:
    """A bank on another copy of the base, with the same adapters, read from the folders that PEFT writes."""
    bank = AdapterBank(model)
    with tempfile.TemporaryDirectory() as folder:
        peft.save_pretrained(folder)
        for i in range(n):
            bank.load(f"a{i}", Path(folder) / f"a{i}")
    return bank


def decode(model: Any, prompts: Sequence[Sequence[int]], new: int, bank: AdapterBank | None, who: Any) -> list[Any]:
    outputs = Decoder(model, (), 0, adapters=bank).generate(prompts, new, adapters=who)
    return [list(output.ids) for output in outputs]


def generate(model: Any, prompts: Sequence[Sequence[int]], new: int, **more: Any) -> list[list[int]]:
    ids = torch.tensor(prompts, device=model.device)
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            pad_token_id=0,
            **more,
        )
    return out[:, ids.shape[1] :].tolist()


def one_at_a_time(peft: Any, prompts: Sequence[Sequence[int]], new: int, names: Sequence[str]) -> list[list[int]]:
    said = []
    for name, prompt in zip(names, prompts, strict=True):
        peft.set_adapter(name, inference_mode=True)
        said += generate(peft, [prompt], new)
    return said


def swaps(choose: Callable[[int], Any], times: int) -> float:
    """Swaps per second, each to the next adapter."""
    start = time.perf_counter()
    for i in range(times):
        choose(i)
    return times / (time.perf_counter() - start)


def swapping(n: int, hidden: int, layers: int, repeats: int, times: int) -> tuple[list[dict[str, Any]], Any]:
    """The cost of choosing another adapter for a batch of 8 with some number loaded."""
    peft = with_peft(base(hidden, layers), n)
    bank = ours_of(peft, base(hidden, layers), n)
    chosen: dict[str, Callable[[int], Any]] = {
        "ours": lambda i: bank.use([f"a{i % n}"] * ROWS),
        "each row another": lambda i: bank.use([f"a{(i + row) % n}" for row in range(ROWS)]),
        "PEFT set_adapter": lambda i: peft.set_adapter(f"a{i % n}", inference_mode=True),
    }
    contenders = {name: (lambda choose=choose: swaps(choose, times)) for name, choose in chosen.items()}
    figures = measure.in_turn(contenders, repeats)
    one = measure.row(f"swap, {n} loaded", "swaps/s", figures, "ours", "PEFT set_adapter")
    return [one], {
        "loaded": n,
        "rounds": figures,
        "milliseconds": {k: 1e3 / statistics.median(v) for k, v in figures.items()},
    }


def batch(hidden: int, layers: int, new: int, repeats: int) -> tuple[list[dict[str, Any]], Any]:
    """Eight prompts of 32 tokens, eight adapters."""
    model, plain = base(hidden, layers), base(hidden, layers)
    peft = with_peft(base(hidden, layers), ROWS)
    bank = ours_of(peft, model, ROWS)
    draw = torch.Generator().manual_seed(7)
    prompts = torch.randint(5, 4096, (ROWS, 32), generator=draw).tolist()
    names: list[Chosen] = [f"a{i}" for i in range(ROWS)]
    texts = [str(name) for name in names]
    runs: dict[str, Callable[[], Any]] = {
        BASE: lambda: decode(plain, prompts, new, None, None),
        OURS: lambda: decode(model, prompts, new, bank, names),
        ONE: lambda: decode(model, prompts, new, bank, ["a0"] * ROWS),
        MIXED: lambda: generate(peft, prompts, new, adapter_names=texts),
        LOOP: lambda: one_at_a_time(peft, prompts, new, texts),
        GENERATE: lambda: generate(plain, prompts, new),
    }
    for run in runs.values():  # warm
        run()
    contenders = {name: (lambda run=run: ROWS * new / measure.timed(run)) for name, run in runs.items()}
    figures = measure.in_turn(contenders, repeats)
    pairs = [(OURS, BASE), (OURS, MIXED), (OURS, LOOP), (OURS, GENERATE), (ONE, BASE)]
    rows = [measure.row(f"{mine}, batch of {ROWS}", "tokens/s", figures, mine, peer) for mine, peer in pairs]
    # float64 last: it changes the models.
    shares = {"float32": equal(runs[OURS](), runs[LOOP]())}
    for one in (model, peft):
        one.double()
    exact = ours_of(peft, model, ROWS)
    shares["float64"] = equal(decode(model, prompts, new, exact, names), runs[LOOP]())
    return rows, {"rounds": figures, "rows_equal_to_peft": shares}


def equal(ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    """The share of rows with the same ids throughout."""
    return sum(list(a) == list(b) for a, b in zip(ours, theirs, strict=True)) / len(ours)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--hidden", type=int, default=288, help="width of the model; a multiple of 12")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--new", type=int, default=64, help="tokens that each row writes")
    parser.add_argument("--loaded", nargs="+", type=int, default=[2, 8, 64], metavar="N", help="adapters in memory")
    given = parser.parse_args(arguments)
    if given.quick:
        given.hidden, given.layers, given.new, given.loaded = 24, 1, 4, [2]
    from transformers.utils.logging import set_verbosity_error

    set_verbosity_error()
    facts = measure.machine(given.threads)
    table, measured = batch(given.hidden, given.layers, given.new, given.repeats)
    more = [measured]
    for share, value in measured["rows_equal_to_peft"].items():
        print(f"  {share}: {value:.0%} of the rows say what PEFT says with one adapter at a time", flush=True)
    for n in given.loaded:
        rows, measured = swapping(n, given.hidden, given.layers, given.repeats, 4 if given.quick else 100)
        table += rows
        more.append(measured)
        shown = ", ".join(f"{name} {ms:.3f} ms" for name, ms in measured["milliseconds"].items())
        print(f"  {n} loaded, one swap: {shown}", flush=True)
    measure.finish("adapters", facts, table, more, given.output)


if __name__ == "__main__":
    main()
