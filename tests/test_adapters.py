"""The bank of adapters: each row has the adapter that it asked for, whatever the others have."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from loras import LORAS, MIX, ROWS, added, alone, bank, decoded, expected
from test_lora import adapter as make_adapter

from continual import deltas, lora
from continual.adapters import AdapterBank
from continual.decode import Decoder
from continual.errors import ContinualError
from continual.lora import Factors
from continual.request import Chosen, Request

IDS = torch.tensor([[9, 20, 31, 42], [7, 7, 8, 200], [5, 6, 7, 8], [100, 90, 80, 70]])


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


def test_what_is_no_number_reaches_nobody_else() -> None:
    one, known = AdapterBank(tiny.model()), LORAS["b"]
    wild = {name: Factors(factors.a.float() * 1e38, factors.b) for name, factors in known.factors.items()}
    one.load("a", LORAS["a"])
    one.load("wild", replace(known, factors=wild))  # finite, until it meets an input
    one.use(["a"] * 4)
    wanted = one.model(IDS).logits
    one.use(["a"] * 4 + ["wild"] * 4)
    torch.testing.assert_close(one.model(IDS.repeat(2, 1)).logits[:4], wanted)
    with pytest.raises(ContinualError, match="some of its values are no finite numbers in torch.float32"):
        one.hold((("a", 1e39),))
    wrong = {name: Factors(factors.a, factors.b * float("nan")) for name, factors in known.factors.items()}
    with pytest.raises(ContinualError, match="adapter 'x': some of its values"):
        one.load("x", replace(known, factors=wrong))
    assert one.names() == ["a", "wild"]


def test_mixes_do_not_pile_up() -> None:
    one = bank()
    before = one.bytes
    held = [one.hold((("a", 1.0), ("b", 1 + n / 100))) for n in range(5)]
    assert one.bytes == before and one.hold((("a", 1.0), ("b", 1.0))) is held[0]  # while somebody uses it


def test_after_decoding_the_model_is_the_base_again() -> None:
    one = bank()
    decoded(one, ["a"] * 4)
    with torch.inference_mode():
        torch.testing.assert_close(one.model(IDS).logits, expected(None, IDS), rtol=0, atol=0)


def test_what_was_chosen_while_nothing_was_differentiated_may_be_used_where_something_is() -> None:
    one = bank()
    for rows, context in (
        (["a", MIX, None, "b"], torch.inference_mode()),
        (["b", MIX, "a", None], torch.no_grad()),
        (["a", "b", MIX, "small"], torch.enable_grad()),
        ([MIX] * 4, torch.enable_grad()),
    ):
        with context:
            one.use(rows)
            found = one.model(IDS).logits
        for n, row in enumerate(rows):
            torch.testing.assert_close(found[n : n + 1].detach(), expected(row, IDS[n : n + 1]).detach())
    found.sum().backward()
    assert one.model.get_input_embeddings().weight.grad is not None


def test_a_decoder_without_adapters_refuses_one() -> None:
    with pytest.raises(ValueError, match="an adapter needs a decoder that has adapters"):
        Decoder(tiny.model(), [1], 0).add(Request([5], 3, adapter="a"))


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
