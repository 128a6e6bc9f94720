"""Merging eight adapters: what each method costs in core space, and the SVD merge against PEFT's.

python -m benchmarks.merge [--output FILE]

Then the same merges by PEFT and, where it is installed in the same environment, by mergekit, on the whole changes:
how far their numbers are from ours. Adapters are random and independent, so times mean something and energies do not.
"""

import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import measure
from continual.guard import guard

guard()

import torch  # noqa: E402
from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

from continual import lora  # noqa: E402
from continual.lora import Lora  # noqa: E402
from continual.merge import changes, merge  # noqa: E402
from continual.merges import MERGES  # noqa: E402

RANK = 8
WEIGHT, DENSITY = 0.125, 0.2


def base(width: int, layers: int) -> Any:
    """A Llama of random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=width // 48,
    )
    return LlamaForCausalLM(config)


def adapters(folder: Path, width: int, layers: int, n: int) -> tuple[Any, list[Lora]]:
    """A PEFT model with random adapters ``a0``, ``a1`` … on all linear layers, and the same as we read them."""
    names = [f"a{i}" for i in range(n)]
    for seed, name in enumerate(names):
        model = get_peft_model(base(width, layers), LoraConfig(r=RANK, lora_alpha=16, target_modules="all-linear"))
        torch.manual_seed(seed + 1)
        for parameter_name, parameter in model.named_parameters():
            if "lora_" in parameter_name:
                torch.nn.init.normal_(parameter, std=0.05)
        model.save_pretrained(folder / name)
    model = PeftModel.from_pretrained(base(width, layers), str(folder / names[0]), adapter_name=names[0])
    for name in names[1:]:
        model.load_adapter(str(folder / name), name)
    return model, [lora.load(folder / name) for name in names]


def ours(loras: Sequence[Lora], method: str, **options: Any) -> float:
    """Seconds of one merge."""
    return measure.timed(lambda: merge(loras, method, **options))


def by_peft(model: Any, n: int, kind: str, **options: Any) -> float:
    """Seconds of PEFT's; the result is the adapter ``merged``."""
    if "merged" in model.peft_config:
        model.delete_adapter("merged")
    names = [f"a{i}" for i in range(n)]
    return measure.timed(
        lambda: model.add_weighted_adapter(names, [WEIGHT] * n, "merged", combination_type=kind, **options)
    )


def statistics(loras: Sequence[Lora], kind: str) -> list[dict[str, torch.Tensor]]:
    """Made-up Gram matrices or Fisher information."""
    draw = torch.Generator().manual_seed(0)
    found = []
    for one in loras:
        own = {}
        for name, (a, b) in one.factors.items():
            x = torch.randn(a.shape[1], a.shape[1], generator=draw)
            own[name] = x @ x.T if kind == "gram" else torch.rand(b.shape[0], a.shape[1], generator=draw)
        found.append(own)
    return found


def each_method(loras: Sequence[Lora], repeats: int) -> measure.Figures:
    """Seconds of every method in core space, in turn."""
    contenders = {}
    for method, known in MERGES.items():
        options: dict[str, Any] = {}
        if known.statistics is not None:
            options["statistics"] = statistics(loras, known.statistics)
        given = loras[: known.at_most]
        contenders[method] = lambda given=given, method=method, options=options: ours(given, method, **options)
    return measure.in_turn(contenders, repeats)


def distance(found: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> float:
    """How far two merges are from each other, over all modules, relative to theirs."""
    apart = sum(float((found[name] - one).square().sum()) for name, one in theirs.items())
    return (apart / sum(float(one.square().sum()) for one in theirs.values())) ** 0.5


def deltas(one: Lora) -> dict[str, torch.Tensor]:
    return {name: b @ a for name, (a, b) in one.factors.items()}


def checked_with_peft(model: Any, loras: Sequence[Lora]) -> dict[str, float]:
    """Distances from PEFT's merges on whole changes, with equal weights of 1/n."""
    found = {}
    n = len(loras)
    for kind, method, options in (
        ("svd", "linear", {"weights": [WEIGHT] * n}),
        ("ties_svd", "ties", {"scale": WEIGHT, "density": DENSITY}),
        ("magnitude_prune_svd", "magnitude_prune", {"weights": [WEIGHT] * n, "density": DENSITY}),
    ):
        by_peft(model, n, kind, svd_rank=RANK, density=DENSITY)
        theirs = {
            name.removeprefix("base_model.model."): module.get_delta_weight("merged").detach()
            for name, module in model.named_modules()
            if "merged" in getattr(module, "lora_A", {})
        }
        mine = merge(loras, method, rank=RANK, space="full", **options).lora
        found[f"PEFT {kind}"] = distance(deltas(mine), theirs)
    return found


def checked_with_mergekit(loras: Sequence[Lora]) -> dict[str, float]:
    """Distances from mergekit's merges of the whole changes, with its own defaults and equal weights of 1/n."""
    from mergekit.merge_methods.api import merge_tensors

    found, n = {}, len(loras)
    whole = [deltas(one) for one in loras]
    equal = [WEIGHT] * n
    for theirs, method, given, options in (
        ("task_arithmetic", "task_arithmetic", {}, {"weights": equal}),
        ("ties", "ties", {"density": DENSITY}, {"density": DENSITY}),
        ("breadcrumbs", "breadcrumbs", {"density": DENSITY}, {"weights": equal, "density": DENSITY}),
    ):
        parameters = {"weight": equal, **{key: [value] * n for key, value in given.items()}}
        merged = {}
        for name in whole[0]:
            zero = torch.zeros_like(whole[0][name])
            merged[name] = merge_tensors(
                [zero, *(one[name] for one in whole)],
                theirs,
                parameters=parameters,
                base_index=0,
            )
        found[f"mergekit {theirs}"] = distance(dict(changes(loras, method, space="full", **options)), merged)
    merged = {
        name: merge_tensors([whole[0][name], whole[1][name]], "slerp", parameters={"t": 0.25}, base_index=0)
        for name in whole[0]
    }
    found["mergekit slerp"] = distance(dict(changes(loras[:2], "slerp", [3, 1])), merged)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--adapters", type=int, default=8, metavar="N")
    given = parser.parse_args(arguments)
    sizes = [(48, 1)] if given.quick else [(288, 6), (1152, 1)]
    n = 2 if given.quick else given.adapters
    facts = measure.machine(given.threads)
    table, methods, apart = [], {}, {}
    for width, layers in sizes:
        with tempfile.TemporaryDirectory() as folder:
            model, loras = adapters(Path(folder), width, layers, n)
        weights = [WEIGHT] * n
        merge(loras, "linear", weights)  # what is loaded at the first merge is not timed
        figures = measure.in_turn(
            {
                "ours": lambda loras=loras, weights=weights: 1 / ours(loras, "linear", weights=weights, rank=RANK),
                "PEFT svd": lambda model=model: 1 / by_peft(model, n, "svd", svd_rank=RANK),
                "PEFT svd, reduced": lambda model=model: (
                    1 / by_peft(model, n, "svd", svd_rank=RANK, svd_full_matrices=False)
                ),
            },
            given.repeats,
        )
        name = f"SVD merge of {n}, width {width}, {layers} layer{'s' if layers > 1 else ''}"
        table += [measure.row(name, "merges/s", figures, "ours", peer) for peer in list(figures)[1:]]
        if (width, layers) == sizes[0]:
            methods = each_method(loras, given.repeats)
            apart = checked_with_peft(model, loras)
            if find_spec("mergekit"):
                apart |= checked_with_mergekit(loras)
            else:
                print("mergekit is not installed here; its numbers are not compared")
            print(f"seconds of each method in core space, {n} adapters, width {width}, {layers} layers")
            for method, seconds in methods.items():
                print(f"  {method:<18}{sorted(seconds)[len(seconds) // 2]:8.3f}")
            print("relative distance from the same merge by others")
            for peer, far in apart.items():
                print(f"  {peer:<28}{far:10.1e}")
    measure.finish("merge", facts, table, {"seconds": methods, "distance": apart}, given.output)


if __name__ == "__main__":
    main()
