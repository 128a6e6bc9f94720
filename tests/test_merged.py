"""A merge of specialists, its scale given or found; and a model that takes on another adapter's change."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from continual import lora
from continual.errors import ContinualError
from continual.lora import Factors, Lora
from continual.merged import How, merged, norm, put_on, random_like, scaled
from continual.model import add_adapter, load_adapter


def trained(tmp_path: Path, r: int, seed: int, **more: Any) -> Lora:
    """An adapter that changes something."""
    model = add_adapter(tiny.model(), {"r": r, "target_modules": "all-linear", **more}, seed)
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.1)
    model.save_pretrained(tmp_path / f"{seed}")
    return lora.load(tmp_path / f"{seed}")


def two() -> list[Lora]:
    """Two adapters of one 2 x 2 module, whose changes are diag(1, 0) and diag(0, 3)."""
    first = Factors(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0], [0.0]]))
    second = Factors(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0], [3.0]]))
    return [Lora(None, {"m": one}, ("m",)) for one in (first, second)]


def change(one: Lora) -> torch.Tensor:
    a, b = one.factors["m"]
    return b @ a


def test_a_given_scale_multiplies_the_merge() -> None:
    made, told = merged(two(), How("linear", {}, 3.0, rank=2))
    assert torch.allclose(change(made), torch.diag(torch.tensor([1.5, 4.5])))
    assert (told["weights"], told["scale"], told["rank"]) == ([0.5, 0.5], 3.0, 2)
    assert told["kept"] == pytest.approx(1.0)


def test_a_scale_is_found_by_the_loss() -> None:
    wanted = torch.diag(torch.tensor([0.5, 1.5]))  # the mean as it is

    def loss(one: Lora) -> float:
        return float((change(one) - wanted).square().sum())

    made, told = merged(two(), How("linear", {}, "tune", rank=2), loss)
    assert told["scale"] == 1.0 and told["loss"] == pytest.approx(0, abs=1e-10)
    assert torch.allclose(change(made), wanted, atol=1e-6)
    assert [scale for scale, _ in told["tried"]] == sorted(scale for scale, _ in told["tried"])


def test_weights_of_each_are_found_by_the_loss() -> None:
    wanted = torch.diag(torch.tensor([0.8, 1.5]))

    def loss(one: Lora) -> float:
        return float((change(one) - wanted).square().sum())

    both, _ = merged(two(), How("linear", {}, "tune", rank=2), loss)
    each, told = merged(two(), How("linear", {}, "tune_each", rank=2), loss)
    assert loss(each) < 0.3 * loss(both)
    first, second = told["weights"]
    assert first > second


@pytest.mark.parametrize("alpha", [{"lora_alpha": 8}, {"lora_alpha": 3, "use_rslora": True}])
def test_a_model_makes_the_change_of_the_adapter_that_it_takes_on(tmp_path: Path, alpha: dict[str, Any]) -> None:
    other = trained(tmp_path, 2, 1, lora_alpha=6)
    model = add_adapter(tiny.model(), {"r": 4, "target_modules": "all-linear", **alpha}, 5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.fill_(1)  # what was there before must be gone
    put_on(model, other)
    ids = torch.tensor([[5, 9, 20, 31]])
    right = load_adapter(tiny.model(), tmp_path / "1")(ids).logits
    assert torch.allclose(model(ids).logits, right, atol=1e-5)
    assert not torch.allclose(tiny.model()(ids).logits, right, atol=1e-3)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    other = trained(tmp_path, 4, 1)
    with pytest.raises(ContinualError, match="rank 4"):
        put_on(add_adapter(tiny.model(), {"r": 2, "target_modules": "all-linear"}, 0), other)
    with pytest.raises(ContinualError, match="does not"):
        put_on(add_adapter(tiny.model(), {"r": 4, "target_modules": ["q_proj"]}, 0), other)


def test_the_norm_is_that_of_the_whole_change() -> None:
    factors = Factors(torch.randn(3, 7), torch.randn(5, 3))
    assert norm(factors) == pytest.approx(float((factors.b @ factors.a).norm()), rel=1e-5)


def test_a_random_adapter_has_the_same_norms_and_another_direction(tmp_path: Path) -> None:
    one = trained(tmp_path, 2, 1)
    control = random_like(one, 7)
    assert control.factors.keys() == one.factors.keys()
    for name, factors in one.factors.items():
        other = control.factors[name]
        assert norm(other) == pytest.approx(norm(factors), rel=1e-4)
        cosine = float(((other.b @ other.a) * (factors.b @ factors.a)).sum()) / norm(factors) ** 2
        assert abs(cosine) < 0.6
    assert torch.equal(random_like(one, 7).factors[name].a, control.factors[name].a)


def test_scaling_multiplies_the_change() -> None:
    assert torch.equal(change(scaled(two()[1], 2.0)), torch.diag(torch.tensor([0.0, 6.0])))
