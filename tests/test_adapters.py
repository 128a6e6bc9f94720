"""The bank of adapters: each row has the adapter that it asked for, whatever the others have."""

import gc
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from test_lora import adapter as make_adapter

from continual import deltas, lora
from continual.adapters import AdapterBank
from continual.decode import Decoder
from continual.errors import ContinualError
from continual.request import Chosen, Request

IDS = torch.tensor([[9, 20, 31, 42], [7, 7, 8, 200], [5, 6, 7, 8], [100, 90, 80, 70]])
PROMPTS = [[9, 10, 11], [12], [13, 14, 15, 16, 17], [20, 21], [22] * 9, [30, 31], [32, 9], [11, 40]]


def random_lora(seed: int, rank: int = 4, modules: str = "", architecture: str = "llama") -> lora.Lora:
    """An adapter of random matrices, for the linear modules of the layers whose names contain some letters."""
    draw = torch.Generator().manual_seed(seed)
    factors = {}
    for name, module in tiny.model(architecture).named_modules():
        if isinstance(module, torch.nn.Linear) and "layers" in name and modules in name:
            out, into = module.weight.shape
            a, b = torch.randn(rank, into, generator=draw), torch.randn(out, rank, generator=draw)
            factors[name] = lora.Factors(a * 0.3, b * 0.3)
    return lora.Lora("a-base", factors, "all-linear")


LORAS = {
    "a": random_lora(1),
    "b": random_lora(2),
    "small": random_lora(3, rank=2),
    "large": random_lora(4, rank=7),
    "queries": random_lora(5, modules="q_proj"),
    "mlp": random_lora(6, rank=3, modules="1.mlp.up"),
}


def bank(double: bool = True, **settings: Any) -> AdapterBank:
    model = tiny.model()
    made = AdapterBank(model.double() if double else model, **settings)
    for name, one in LORAS.items():
        made.load(name, one)
    return made


def added(*changes: tuple[str, float]) -> Any:
    """The base model with changes in its weights."""
    model = tiny.model().double()
    for name, weight in changes:
        for module, (a, b) in LORAS[name].factors.items():
            model.get_submodule(module).weight.data += weight * (b.double() @ a.double())
    return model


def expected(chosen: Chosen, ids: torch.Tensor) -> torch.Tensor:
    changes = () if chosen is None else ((chosen, 1.0),) if isinstance(chosen, str) else chosen
    return added(*changes)(ids).logits


MIX = (("a", 0.5), ("large", -1.5))
BATCHES: list[list[Chosen]] = [
    ["a"] * 4,
    [None] * 4,
    ["a", "b", "a", "b"],
    ["a", None, None, None],
    ["a", "b", None, "large"],
    ["small", "large", "queries", "mlp"],
    ["queries"] * 4,
    [None, "mlp", None, None],
    ["mlp", "mlp", "queries", None],
    [MIX] * 4,
    [MIX, "a", None, (("b", 1.0), ("b", 1.0))],
    [None, None, None, MIX],
]


@pytest.mark.parametrize("rows", BATCHES, ids=str)
@torch.inference_mode()
def test_each_row_is_changed_by_its_own_adapter(rows: list[Chosen]) -> None:
    one = bank()
    one.use(rows)
    found = one.model(IDS).logits
    for n, chosen in enumerate(rows):
        torch.testing.assert_close(found[n : n + 1], expected(chosen, IDS[n : n + 1]), rtol=1e-9, atol=1e-9)


@torch.inference_mode()
def test_batches_may_follow_each_other_in_any_order() -> None:
    one, many = bank(), IDS.repeat(4, 1)
    for rows in [*BATCHES, *reversed(BATCHES), *([*row * 4] for row in BATCHES), *BATCHES]:
        one.use(rows)
        found = one.model(many[: len(rows)]).logits
        for n, chosen in enumerate(rows):
            torch.testing.assert_close(found[n : n + 1], expected(chosen, many[n : n + 1]), rtol=1e-9, atol=1e-9)
    one.use(())
    torch.testing.assert_close(one.model(IDS).logits, expected(None, IDS), rtol=0, atol=0)


# As PEFT computes it


def from_peft(folder: Path, architecture: str, **settings: Any) -> tuple[Any, AdapterBank]:
    """A PEFT model with an adapter, and a bank that has loaded its folder as `x`, both in float64."""
    theirs = make_adapter(folder, architecture, **settings).double()
    ours = AdapterBank(tiny.model(architecture).double())
    ours.load("x", folder)
    return theirs, ours


VARIANTS: list[dict[str, Any]] = [
    {},
    {"r": 4, "lora_alpha": 20},
    {"r": 4, "use_rslora": True},
    {"rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.down_proj": 5}, "alpha_pattern": {"q_proj": 3, "v_proj": 20}},
    {"target_modules": ["q_proj", "down_proj"]},
    {"layers_to_transform": [1], "target_modules": ["q_proj"]},
    {"init_lora_weights": "orthogonal", "r": 4},
]


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
@torch.inference_mode()
def test_a_folder_does_what_peft_does_with_it(tmp_path: Path, settings: dict[str, Any]) -> None:
    theirs, ours = from_peft(tmp_path, "llama", **settings)
    wanted, plain = theirs(IDS).logits, ours.model(IDS).logits
    ours.use(["x"] * 4)
    torch.testing.assert_close(ours.model(IDS).logits, wanted, rtol=1e-6, atol=1e-6)
    ours.use(["x", None, (("x", 0.5), ("x", 0.5)), None])
    found = ours.model(IDS).logits
    torch.testing.assert_close(found[[0, 2]], wanted[[0, 2]], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[[1, 3]], plain[[1, 3]], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("architecture", [*tiny.ARCHITECTURES, *tiny.MORE_ARCHITECTURES])
@torch.inference_mode()
def test_every_architecture_is_adapted(tmp_path: Path, architecture: str) -> None:
    theirs, ours = from_peft(tmp_path, architecture, r=4)
    wanted = theirs(IDS).logits
    for rows in (["x"] * 4, ["x", None, "x", None], [None, None, "x", None]):
        ours.use(rows)
        found = ours.model(IDS).logits
        mine = [n for n, row in enumerate(rows) if row]
        torch.testing.assert_close(found[mine], wanted[mine], rtol=1e-6, atol=1e-6)


@torch.inference_mode()
def test_a_head_of_its_own_is_adapted_too() -> None:
    one, factors = bank(), lora.Factors(torch.ones(2, 16) * 0.1, torch.ones(300, 2) * 0.1)
    one.load("head", lora.Lora(None, {"lm_head": factors}, "lm_head"))
    head = tiny.model().double()
    head.lm_head.weight.data += factors.b.double() @ factors.a.double()
    one.use(["head", None, "a", "head"])
    found = one.model(IDS).logits
    torch.testing.assert_close(found[[0, 3]], head(IDS[[0, 3]]).logits, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found[1:2], expected(None, IDS[1:2]), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found[2:3], expected("a", IDS[2:3]), rtol=1e-9, atol=1e-9)


@torch.inference_mode()
def test_half_precision_is_near() -> None:
    half = AdapterBank(tiny.model().bfloat16())
    half.load("a", LORAS["a"])
    half.load("b", LORAS["b"])
    for rows in (["a"] * 4, ["a", "b", None, "a"]):
        half.use(rows)
        found = half.model(IDS).logits
        assert found.dtype == torch.bfloat16
        for n, row in enumerate(rows):
            wanted = expected(row, IDS[n : n + 1]).float()
            assert (found[n].float() - wanted[0]).norm() < 0.05 * wanted.norm()


# Decoding


def decoded(one: AdapterBank, rows: Sequence[Chosen], new: int = 12, **settings: Any) -> list[tuple[int, ...]]:
    prompts = [PROMPTS[n % len(PROMPTS)] for n in range(len(rows))]
    outputs = Decoder(one.model, [1], 0, adapters=one, **settings).generate(prompts, new, adapters=rows)
    return [output.ids for output in outputs]


def alone(rows: Sequence[Chosen], new: int = 12) -> list[tuple[int, ...]]:
    """Each row by a model whose weights are changed, without any bank."""
    said = []
    for n, row in enumerate(rows):
        changes = () if row is None else ((row, 1.0),) if isinstance(row, str) else row
        (output,) = Decoder(added(*changes), [1], 0).generate([PROMPTS[n % len(PROMPTS)]], new)
        said.append(output.ids)
    return said


ROWS: list[Chosen] = ["a", None, "b", MIX, "small", "a", None, "large"]


@pytest.mark.parametrize("most", [8, 3])
def test_a_mixed_batch_says_what_each_says_alone(most: int) -> None:
    wanted = alone(ROWS)
    assert decoded(bank(), ROWS, max_rows=most) == wanted
    assert len(set(wanted)) > 5  # or one adapter could stand for all


def test_a_common_beginning_is_not_shared_between_adapters() -> None:
    one = bank()
    long = [9, 10, 11, 12] * 70
    requests = [Request([*long, 5], 6, adapter=row) for row in ("a", "b", MIX, None, "a")]
    decoder = Decoder(one.model, [1], 0, max_rows=1, adapters=one)
    said: list[list[int]] = [[] for _ in requests]
    for event in decoder.stream(requests):
        said[event.number].append(event.id)
    for request, ids in zip(requests, said, strict=True):
        changes = () if request.adapter is None else MIX if request.adapter == MIX else ((request.adapter, 1.0),)
        assert tuple(ids) == Decoder(added(*changes), [1], 0).generate([request.prompt], 6)[0].ids


def test_after_decoding_the_model_is_the_base_again() -> None:
    one = bank()
    decoded(one, ["a"] * 4)
    with torch.inference_mode():
        torch.testing.assert_close(one.model(IDS).logits, expected(None, IDS), rtol=0, atol=0)


def test_a_decoder_without_adapters_refuses_one() -> None:
    with pytest.raises(ValueError, match="an adapter needs a decoder that has adapters"):
        Decoder(tiny.model(), [1], 0).add(Request([5], 3, adapter="a"))


# Coming and going


def test_what_is_replaced_answers_what_was_asked_of_it_and_nothing_new() -> None:
    one = bank()
    decoder = Decoder(one.model, [1], 0, adapters=one)
    old = decoder.add(Request(PROMPTS[0], 12, adapter="a"))
    said: dict[int, list[int]] = {old: [event.id for event in decoder.step()]}
    one.load("a", LORAS["b"])
    new = decoder.add(Request(PROMPTS[0], 12, adapter="a"))
    one.unload("a")
    said[new] = []
    while decoder.busy:
        for event in decoder.step():
            said[event.number].append(event.id)
    (as_a,), (as_b,) = alone(["a"]), alone(["b"])
    assert (tuple(said[old]), tuple(said[new])) == (as_a, as_b) and as_a != as_b
    with pytest.raises(ContinualError, match="unknown adapter 'a'"):
        decoder.add(Request(PROMPTS[0], 12, adapter="a"))


def test_a_mix_of_what_was_replaced_is_made_anew() -> None:
    one, mix = bank(), (("a", 1.0),)
    (before,) = decoded(one, [mix])
    one.load("a", LORAS["b"])
    (after,) = decoded(one, [mix])
    assert ([before], [after]) == (alone(["a"]), alone(["b"]))


def test_nobody_is_left_of_what_is_unloaded_when_its_rows_are_done() -> None:
    one = bank()
    decoder = Decoder(one.model, [1], 0, adapters=one)
    decoder.add(Request(PROMPTS[0], 12, adapter="a"))
    source = one._names["a"]
    one.unload("a")
    decoder.step()
    assert source in one._alive
    while decoder.busy:
        decoder.step()
    decoder.clear()
    gc.collect()
    assert source not in one._alive


def test_adapters_come_and_go_while_threads_decode() -> None:
    one = bank()
    rows: list[list[Chosen]] = [ROWS, ["a"] * 3, ["b", MIX, "small"], [None] * 2, list(reversed(ROWS))]
    wanted = [alone(row) for row in rows]
    wrong: list[Any] = []
    stop = threading.Event()

    def churn() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            one.load(f"other{n % 3}", random_lora(n, rank=1 + n % 5))
            one.load("a", LORAS["a"])
            if n % 2:
                one.unload(f"other{n % 3}")

    def work(offset: int) -> None:
        for n in range(len(rows)):
            k = (n + offset) % len(rows)
            if (said := decoded(one, rows[k])) != wanted[k]:
                wrong.append((k, said))

    workers = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    churning = threading.Thread(target=churn)
    for thread in (churning, *workers):
        thread.start()
    for thread in workers:
        thread.join()
    stop.set()
    churning.join()
    assert not wrong


def test_the_least_recently_used_go_and_come_back(tmp_path: Path) -> None:
    two = AdapterBank(tiny.model().double())
    two.load("a", LORAS["a"])
    size = two.bytes
    one = AdapterBank(tiny.model().double(), memory=2 * size)
    lora.save(LORAS["a"], tmp_path / "a")
    one.load("a", tmp_path / "a")
    one.load("b", LORAS["b"])
    assert one.bytes == 2 * size
    one.load("queries", LORAS["queries"])
    assert one.bytes < 2 * size and one.names() == ["a", "b", "queries"]
    for _ in range(2):
        assert decoded(one, ["a", "b", "queries"]) == alone(["a", "b", "queries"])
        assert one.bytes <= 2 * size
    shutil.rmtree(tmp_path / "a")
    decoded(one, ["b", "queries"])
    with pytest.raises(ContinualError, match="no adapter, there is no adapter_config|changed since it was loaded"):
        one.use(["a"])


def test_what_changed_on_disk_is_not_taken_for_what_was_loaded(tmp_path: Path) -> None:
    one = AdapterBank(tiny.model().double(), memory=1)
    lora.save(LORAS["a"], tmp_path)
    one.load("a", tmp_path)
    one.load("b", LORAS["b"])
    lora.save(LORAS["small"], tmp_path)
    with pytest.raises(ContinualError, match="changed since it was loaded as 'a': load it again"):
        one.use(["a"])
    one.load("a", tmp_path)
    assert decoded(one, ["a"]) == alone(["small"])


# What is refused


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("lage", "unknown adapter 'lage'; did you mean 'large'.*there is a, b, small"),
        ((), "at least one"),
        ((("a", 1.0), ("c", 1.0)), "unknown adapter 'c'"),
        ((("a", float("nan")),), "the weight of 'a' in a mix is no number"),
    ],
    ids=str,
)
def test_what_is_not_there_is_never_the_base(wrong: Chosen, said: str) -> None:
    one = bank()
    with pytest.raises(ContinualError, match=said):
        one.use([wrong])
    with pytest.raises(ContinualError, match=said):
        Decoder(one.model, [1], 0, adapters=one).add(Request([5], 3, adapter=wrong))


@pytest.mark.parametrize(
    ("module", "shape", "said"),
    [
        (
            "model.layers.9.mlp.up_proj",
            (32, 16),
            "'x' .made for a-base. does not fit Llama.*layers.9.mlp.up_proj', and",
        ),
        ("model.norm", (16, 16), "no such linear module"),
        ("model.layers.0.mlp.up_proj", (32, 17), r"up_proj' as \(out, in\) = \(32, 17\), which is \(32, 16\) there"),
    ],
)
def test_an_adapter_of_another_base_is_refused(module: str, shape: tuple[int, int], said: str) -> None:
    factors = {module: lora.Factors(torch.ones(2, shape[1]), torch.ones(shape[0], 2))}
    one = bank()
    with pytest.raises(ContinualError, match=said):
        one.load("x", lora.Lora("a-base", factors, "all-linear"))
    assert "x" not in one.names()


def test_a_peft_model_is_no_base(tmp_path: Path) -> None:
    with pytest.raises(ContinualError, match="the base model itself"):
        AdapterBank(make_adapter(tmp_path))


# What it costs


def test_choosing_walks_no_modules_and_copies_nothing() -> None:
    """One adapter for all rows: the same objects, whatever the number loaded."""
    one = bank()
    one.use(["a"] * 4)
    first = one._here.batch.delta
    one.use(["b"] * 4)
    one.use(["a"] * 4)
    again = one._here.batch.delta
    assert first.table is again.table


def test_rows_that_stay_are_not_copied_again(monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[Any] = []
    plain = deltas.copy
    monkeypatch.setattr(deltas, "copy", lambda *given: (copied.append(given), plain(*given)))
    one = bank()
    one.use(["a", "b", "a"])
    assert len(copied) == 3
    one.use(["a", "b", "a"])
    one.use(["a", "b"])
    assert len(copied) == 3
    one.use(["a", "b", None])
    one.use(["b", "b", None])
    assert len(copied) == 4
