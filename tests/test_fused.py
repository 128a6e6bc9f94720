"""Fused products of frozen layers: PEFT's own outputs and gradients, with less work."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners import lora
from torch import nn

from continual import precision
from continual.fused import fused

IDS = torch.tensor([[5, 6, 7, 8, 9], [50, 60, 70, 80, 90]])


def student(architecture: str = "llama", **settings: Any) -> Any:
    """A model with an adapter that changes what it says."""
    config: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **settings}
    model = get_peft_model(tiny.model(architecture), LoraConfig(task_type="CAUSAL_LM", **config))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(name)))
    return model.train()


def outcome(model: Any, within: Callable[[Any], Any], seed: int = 0) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The logits of a model, and the gradients of all that is trained."""
    model.zero_grad()
    with within(model):
        torch.manual_seed(seed)
        logits = model(input_ids=IDS, use_cache=False).logits
        (logits.float() * torch.linspace(-1, 1, logits.shape[-1])).sum().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return logits.detach(), gradients


def as_it_is(model: Any) -> Any:
    return nullcontext()


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """How far two tensors are apart, as a share of the second."""
    return float((one.double() - other.double()).norm() / other.double().norm())


def equal(one: Any, other: Any, tolerance: float) -> None:
    assert one[0].dtype == other[0].dtype and distance(one[0], other[0]) <= tolerance
    assert one[1].keys() == other[1].keys() and one[1]
    far = {name: distance(gradient, other[1][name]) for name, gradient in one[1].items()}
    assert max(far.values()) <= tolerance, far


@contextmanager
def counting(model: Any, counts: dict[str, int]) -> Iterator[None]:
    """Count the calls of PEFT's own linear layers while training runs fused."""
    forward = lora.Linear.forward

    def counted(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        counts["peft"] = counts.get("peft", 0) + 1
        return forward(self, *args, **kwargs)

    with fused(model), pytest.MonkeyPatch.context() as patch:
        for module in model.modules():
            if isinstance(module, lora.Linear):
                ours = module.forward.__self__
                patch.setattr(ours, "plain", counted.__get__(module))
        yield


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"lora_dropout": 0.3},
        {"target_modules": ["q_proj", "v_proj", "down_proj"]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"rank_pattern": {"q_proj": 2, "up_proj": 7}, "alpha_pattern": {"v_proj": 3}},
    ],
    ids=["lora", "rslora", "dropout", "some", "head", "ranks"],
)
def test_outputs_and_gradients_are_pefts(settings: dict[str, Any]) -> None:
    model, counts = student(**settings), {}
    expected = outcome(model, as_it_is)
    equal(outcome(model, lambda m: counting(m, counts)), expected, 1e-5)
    assert not counts  # no layer went PEFT's way


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES + tiny.MORE_ARCHITECTURES)
def test_every_architecture_trains_as_with_peft(architecture: str) -> None:
    model, counts = student(architecture).double(), {}
    expected = outcome(model, as_it_is)
    equal(outcome(model, lambda m: counting(m, counts)), expected, 1e-9)
    assert not counts


@pytest.mark.parametrize(
    "settings",
    [{"use_dora": True}, {"lora_bias": True, "target_modules": ["c_attn"]}],
    ids=["dora", "lora_bias"],
)
def test_what_is_more_than_plain_lora_goes_pefts_way(settings: dict[str, Any]) -> None:
    model, counts = student("gpt2" if "lora_bias" in settings else "llama", **settings), {}
    expected = outcome(model, as_it_is)
    equal(outcome(model, lambda m: counting(m, counts)), expected, 0.0)
    assert counts["peft"] == sum(isinstance(module, lora.Linear) for module in model.modules())


def test_two_active_adapters_and_none_go_pefts_way() -> None:
    model, counts = student(), {}
    model.add_adapter("second", LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    model.base_model.set_adapter(["default", "second"])
    equal(outcome(model, lambda m: counting(m, counts)), outcome(model, as_it_is), 0.0)
    assert counts
    with torch.no_grad(), model.disable_adapter():
        expected = model(input_ids=IDS).logits
        with fused(model):
            assert torch.equal(model(input_ids=IDS).logits, expected)


def test_embeddings_as_targets_and_whole_layers_beside_the_adapter() -> None:
    settings = {"target_modules": ["embed_tokens", "q_proj", "k_proj"], "modules_to_save": ["lm_head"]}
    model = student(**settings)
    expected = outcome(model, as_it_is)
    assert any("embedding_A" in name for name in expected[1]) and any("lm_head" in name for name in expected[1])
    equal(outcome(model, fused), expected, 1e-5)


def test_dropout_draws_what_peft_draws() -> None:
    model = student(lora_dropout=0.5)
    fused_twice = [outcome(model, fused, seed)[0] for seed in (0, 1)]
    assert not torch.allclose(*fused_twice)
    for seed, logits in enumerate(fused_twice):
        torch.testing.assert_close(logits, outcome(model, as_it_is, seed)[0], rtol=1e-5, atol=1e-5)
    model.eval()
    torch.testing.assert_close(outcome(model, fused)[0], outcome(model, as_it_is)[0], rtol=1e-5, atol=1e-5)


def test_dropout_keeps_the_mean_of_the_update() -> None:
    torch.manual_seed(0)
    model = student(lora_dropout=0.4, target_modules=["down_proj"])
    layer = next(module for module in model.modules() if isinstance(module, lora.Linear))
    x = torch.randn(3, layer.in_features)
    with torch.no_grad(), fused(model):
        drawn = torch.stack([layer(x) for _ in range(4000)])
        model.eval()
        whole = layer(x)
    spread = drawn.std(0) / 4000**0.5
    assert ((drawn.mean(0) - whole).abs() < 5 * spread + 1e-6).all()


def test_activations_that_are_computed_again_give_the_same_gradients() -> None:
    from continual.model import checkpoint_activations

    model = student().double()
    expected = outcome(model, as_it_is)
    checkpoint_activations(model)
    equal(outcome(model, fused), expected, 1e-9)


def test_layers_with_one_input_share_one_node() -> None:
    model = student()
    with fused(model):
        attention = model.base_model.model.model.layers[0].self_attn
        x = torch.randn(1, 4, 16, requires_grad=True)
        q, k, v = attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)
        assert q.grad_fn is k.grad_fn is v.grad_fn
        # The same layers, given something else or out of turn, compute for themselves.
        other = torch.randn(1, 4, 16, requires_grad=True)
        torch.testing.assert_close(attention.k_proj(x), k)
        assert attention.v_proj(other).grad_fn is not v.grad_fn


def test_no_gradient_is_computed_below_the_first_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    from continual.fused import _Products

    needed: list[bool] = []
    backward = _Products.backward

    def watch(ctx: Any, *above: Any) -> Any:
        needed.append(ctx.needs_input_grad[0])
        return backward(ctx, *above)

    monkeypatch.setattr(_Products, "backward", staticmethod(watch))
    outcome(student(), fused)
    assert needed == [True] * 7 + [False]  # two layers of qkv, o, gate and up, down; the first is given embeddings


def test_after_training_the_model_is_as_before(tmp_path: Path) -> None:
    model = student()
    names, kinds = list(model.state_dict()), [type(module) for module in model.modules()]
    with pytest.raises(RuntimeError, match="on purpose"), fused(model):
        raise RuntimeError("on purpose")
    assert names == list(model.state_dict()) and kinds == [type(module) for module in model.modules()]
    assert not any("forward" in vars(module) for module in model.modules())
    with fused(model):
        model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny.model(), str(tmp_path)).eval()
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=IDS).logits, model.eval()(input_ids=IDS).logits)


@pytest.mark.parametrize("native", [True, False], ids=["bfloat16", "no-bfloat16"])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "plain"])
def test_half_precision_is_pefts_to_its_rounding(
    native: bool, weights: torch.dtype, autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: native)
    model = student()
    exact = outcome(model, as_it_is)
    for name, p in model.named_parameters():
        p.data = p.data if "lora_" in name else p.data.to(weights)  # as PEFT loads it: adapters stay in float32

    def within(inner: Callable[[Any], Any]) -> Callable[[Any], Any]:
        @contextmanager
        def both(model: Any) -> Iterator[None]:
            with inner(model), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                yield

        return both

    # Compared with exact numbers, we may be as far off as PEFT is.
    theirs, ours = outcome(model, within(as_it_is)), outcome(model, within(fused))
    assert ours[0].dtype == theirs[0].dtype and all(g.dtype == torch.float32 for g in ours[1].values())
    for of in (lambda got: got[0], lambda got: torch.cat([got[1][name].flatten() for name in exact[1]])):
        assert distance(of(ours), of(exact)) < max(1.5 * distance(of(theirs), of(exact)), 1e-6)


@pytest.mark.parametrize("native", [True, False], ids=["bfloat16", "no-bfloat16"])
def test_frozen_weights_are_cast_once(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: native)
    model = student()
    frozen = {p.data_ptr() for name, p in model.named_parameters() if not p.requires_grad and p.ndim == 2}
    casts: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if op is torch.ops.aten._to_copy.default:
                casts.append(args[0].data_ptr())
            return op(*args, **(kwargs or {}))

    with fused(model), torch.autocast("cpu", torch.bfloat16):
        model(input_ids=IDS, use_cache=False)
        with Watch():
            model(input_ids=IDS, use_cache=False).logits.sum().backward()
    assert not frozen & set(casts)
    assert casts  # activations are


def test_a_frozen_weight_with_new_numbers_is_cast_again() -> None:
    model = student()
    layer = next(module for module in model.modules() if isinstance(module, lora.Linear))
    x = torch.randn(2, layer.in_features)
    with torch.no_grad(), fused(model), torch.autocast("cpu", torch.bfloat16):
        before = layer(x)
        layer.get_base_layer().weight.mul_(2)
        changed = layer(x)
        layer.get_base_layer().weight.data = layer.get_base_layer().weight * 2
        assert not torch.equal(before, changed) and not torch.equal(changed, layer(x))


def test_a_model_without_frozen_weights_is_left_alone() -> None:
    model = tiny.model().train()
    with fused(model):
        assert not any("forward" in vars(module) for module in model.modules() if isinstance(module, nn.Linear))
