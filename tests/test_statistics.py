"""What RegMean and Fisher merging know of an adapter's data: computed right, and the model is as before."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from test_lora import adapter

from continual import lora, statistics
from continual.errors import ContinualError
from continual.lora import Lora
from continual.statistics import Row
from continual.weights import changed

IDS = [5, 9, 17, 33, 70, 6]
FIRST = "model.layers.0.self_attn.q_proj"


def read(folder: Path, **settings: Any) -> Lora:
    adapter(folder, **settings)
    return lora.load(folder)


def test_gram_is_the_mean_product_of_a_modules_inputs(tmp_path: Path):
    model, one = tiny.model(), read(tmp_path)
    found = statistics.gram(model, one, [Row(IDS, [0] * 6), Row(IDS[:3], [0] * 3)])
    assert found.keys() == one.factors.keys()
    # The first layer sees the embeddings, which the adapter leaves alone.
    layer = model.model.layers[0]
    x = torch.cat([layer.input_layernorm(model.model.embed_tokens(torch.tensor(ids))) for ids in (IDS, IDS[:3])])
    torch.testing.assert_close(found[FIRST], (x.T @ x / 9).detach(), rtol=1e-5, atol=1e-5)


def test_gram_sees_the_inputs_that_there_are_with_the_adapter(tmp_path: Path):
    model, one = tiny.model(), read(tmp_path)
    rows = [Row(IDS, [0] * 6)]
    without = statistics.gram(model, Lora(None, {n: f._replace(b=0 * f.b) for n, f in one.factors.items()}, ()), rows)
    found = statistics.gram(model, one, rows)
    torch.testing.assert_close(found[FIRST], without[FIRST])
    last = "model.layers.1.mlp.down_proj"
    assert (found[last] - without[last]).norm() > 0.01 * without[last].norm()


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_fisher_is_the_expected_square_of_the_gradient(tmp_path: Path, architecture: str):
    model = tiny.model(architecture, vocabulary=8)
    targets = ["q_proj"] if architecture == "llama" else ["c_attn"]
    from peft import LoraConfig, get_peft_model

    made = get_peft_model(tiny.model(architecture, vocabulary=8), LoraConfig(target_modules=targets))
    for name, parameter in made.named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    made.save_pretrained(tmp_path)
    one = lora.load(tmp_path)
    name = next(iter(one.factors))
    # One answer token, whose every value can be tried: sum_y p(y) * grad(log p(y))^2.
    ids = [1, 2, 3, 4]
    expected = torch.zeros(())
    with changed(model, ((n, b @ a) for n, (a, b) in one.factors.items())):
        weight = model.get_submodule(name).weight.requires_grad_(True)
        for y in range(8):
            likely = model(torch.tensor([ids])).logits[0, 2].log_softmax(-1)
            (gradient,) = torch.autograd.grad(likely[y], [weight])
            expected = expected + likely[y].exp().detach() * gradient**2
        weight.requires_grad_(False)
    found = statistics.fisher(model, one, [Row(ids, [0, 0, 0, 1])] * 80)[name]
    expected = expected if architecture == "llama" else expected.T
    assert found.shape == expected.shape
    assert (found - expected).norm() < 0.5 * expected.norm()
    again = statistics.fisher(model, one, [Row(ids, [0, 0, 0, 1])] * 3)[name]
    assert torch.equal(again, statistics.fisher(model, one, [Row(ids, [0, 0, 0, 1])] * 3)[name])


def test_the_model_is_afterwards_what_it_was(tmp_path: Path):
    model, one = tiny.model(), read(tmp_path)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    asked = [parameter.requires_grad for parameter in model.parameters()]
    statistics.gram(model, one, [Row(IDS, [0] * 6)])
    statistics.fisher(model, one, [Row(IDS, [0, 0, 0, 1, 1, 1])])
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert [parameter.requires_grad for parameter in model.parameters()] == asked
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_statistics_lie_beside_the_adapter(tmp_path: Path):
    with pytest.raises(ContinualError, match=r"no gram\.safetensors"):
        statistics.load("gram", tmp_path)
    kept = {"up": torch.randn(3, 3)}
    statistics.save(kept, "gram", tmp_path)
    assert torch.equal(statistics.load("gram", tmp_path)["up"], kept["up"])


def test_no_row_is_no_statistics(tmp_path: Path):
    model, one = tiny.model(), read(tmp_path)
    for compute in (statistics.gram, statistics.fisher):
        with pytest.raises(ContinualError, match="no row"):
            compute(model, one, [])
