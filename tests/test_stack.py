"""Adapters one on the other: what is saved of their sum computes what the model in memory does."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from conftest import teach
from peft import LoraConfig, get_peft_model

from continual.errors import ContinualError
from continual.methods import stack
from continual.methods.olora import norm, overlap
from continual.model import add_adapter, load_adapter
from continual.runs import read_json

IDS = torch.tensor([[5, 6, 7, 8, 9]])


def adapted(architecture: str = "llama", **settings: Any) -> tuple[Any, dict[str, Any]]:
    chosen = {"r": 2, "target_modules": "all-linear", **settings}
    return add_adapter(tiny.model(architecture), chosen, seed=0), chosen


def scramble(model: Any) -> None:
    """As if everything that is trained had been."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.3, generator=draw)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"use_rslora": True}, {"alpha_pattern": {"q_proj|c_attn": 1}}, {"init_lora_weights": "orthogonal"}],
    ids=["lora", "rslora", "alpha_pattern", "orthogonal"],
)
def test_a_stack_of_three_computes_their_sum_and_loads_as_one_adapter(
    architecture: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    model, chosen = adapted(architecture, **settings)
    scramble(model)
    for number in (1, 2):
        before = logits(model)
        stack.add(model, chosen, seed=number)
        torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=1e-5)  # a fresh adapter changes nothing
        scramble(model)
        assert not torch.allclose(logits(model), before)
        both = logits(model)
        stack.stack(model)
        torch.testing.assert_close(logits(model), both, atol=1e-5, rtol=1e-5)
    model.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert read_json(tmp_path / "adapter_config.json")["r"] == 6
    loaded = load_adapter(tiny.model(architecture), tmp_path)
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-6, rtol=1e-6)


def test_a_stack_by_hand() -> None:
    # s = 4 / 2 for both adapters: s (B_1 A_1 + B_2 A_2).
    model, chosen = adapted(lora_alpha=4, target_modules=["q_proj"])
    scramble(model)
    first = next(stack.layers(model))
    delta = first.lora_B.default.weight @ first.lora_A.default.weight
    stack.add(model, chosen, seed=1)
    scramble(model)
    delta = 2 * (delta + first.lora_B.new.weight @ first.lora_A.new.weight)
    stack.stack(model)
    first = next(stack.layers(model))
    assert first.scaling == {"default": 1.0}
    torch.testing.assert_close(first.lora_B.default.weight @ first.lora_A.default.weight, delta)


def test_only_the_new_adapter_is_trained_and_the_frozen_one_has_no_dropout() -> None:
    model, chosen = adapted(lora_dropout=0.5)
    scramble(model)
    stack.add(model, chosen, seed=1)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained and all(".new." in name for name in trained)
    with torch.no_grad():  # B of the new one is zero, so that only the frozen one is heard
        assert torch.equal(model.train()(input_ids=IDS).logits, model(input_ids=IDS).logits)


def test_what_is_no_linear_layer_is_refused() -> None:
    chosen = {"r": 2, "target_modules": ["embed_tokens", "q_proj"]}
    model = get_peft_model(tiny.model("llama"), LoraConfig(task_type="CAUSAL_LM", **chosen))
    with pytest.raises(ContinualError, match="embed_tokens is none"):
        stack.add(model, chosen, seed=1)


def test_a_renewed_adapter_is_the_untaught_base_again() -> None:
    model, chosen = adapted(use_dora=True, modules_to_save=["lm_head"])
    before = logits(model)
    scramble(model)
    assert not torch.allclose(logits(model), before)
    stack.renew(model, chosen, seed=1)
    torch.testing.assert_close(logits(model), before)
    names = {name for name, p in adapted(use_dora=True, modules_to_save=["lm_head"])[0].named_parameters()}
    assert {name for name, p in model.named_parameters()} == names
    assert any("lm_head" in name for name, p in model.named_parameters() if p.requires_grad)


def test_the_penalty_of_olora_by_hand() -> None:
    model, chosen = adapted(target_modules=["q_proj"])
    stack.add(model, chosen, seed=1)
    with torch.no_grad():
        for layer in stack.layers(model):  # 2 layers, (2, 16) each
            for name, rows in (("default", [[1, 0], [0, 2]]), ("new", [[3, -1], [0, 1]])):
                layer.lora_A[name].weight.zero_()[:, :2] = torch.tensor(rows, dtype=torch.float)
            layer.lora_B.new.weight.zero_()[0, 0] = 4.0
    # |A_old A_new^T| = |[[3, 0], [-2, 2]]|, summed 7
    assert float(overlap(model).detach()) == pytest.approx(14)
    assert float(norm(model).detach()) == pytest.approx(2 * (11**0.5 + 4))
    overlap(model).backward()
    layer = next(stack.layers(model))
    # d/dA_new of sum |A_old A_new^T|: row k is sum_j sign(.)_jk A_old_j
    torch.testing.assert_close(layer.lora_A.new.weight.grad[:, :2], torch.tensor([[1.0, -2.0], [0.0, 2.0]]))
    assert layer.lora_A.default.weight.grad is None


ARMS = {
    "inclora": {"method": "inclora"},
    "olora": {"method": "olora"},
    "merged": {"start_from": "merged", "rehearsal": {"ratio": 0.3, "max_tries": 2, "distill": {"weight": 0.5}}},
    "fresh": {"start_from": "base", "rehearsal": {"ratio": 0.3, "max_tries": 2}},
}


def test_arms_whose_tasks_start_with_fresh_adapters(world: Path) -> None:
    from continual.model import load_model

    three = ["sound", "legs", "first"]
    run = teach(world, arms=ARMS, adapter={"r": 2, "lora_dropout": 0.1, "use_rslora": True}, curriculum=three)
    for arm in ARMS:
        folders = [run / "arms" / arm / "seed0/after" / str(i) for i in (1, 2, 3)]
        ranks = [read_json(folder / "adapter_config.json")["r"] for folder in folders]
        assert ranks == ([2, 2, 2] if arm == "fresh" else [2, 4, 6])
        for folder in folders:
            assert not [p for p in folder.iterdir() if p.is_dir()]
            model = load_adapter(load_model(str(world / "model")), folder)
            assert torch.isfinite(logits(model)).all()
    weights = [
        (run / "arms" / arm / "seed0/after/1/adapter_model.safetensors").read_bytes() for arm in ("inclora", "olora")
    ]
    assert weights[0] == weights[1]  # the first task is the same for both
    names = ("inclora", "olora")
    last = [(run / "arms" / arm / "seed0/after/2/adapter_model.safetensors").read_bytes() for arm in names]
    assert last[0] != last[1]  # the penalty does something
