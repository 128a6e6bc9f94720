"""What PEFT 0.21 silently does wrong when it merges is right here or refused; where it is right, the numbers agree."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from test_lora import IDS, adapter

from continual import lora
from continual.merge import changes, merge

VARIANTS: list[dict[str, Any]] = [
    {},
    {"use_rslora": True, "r": 4},
    {"rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.down_proj": 5}, "alpha_pattern": {"v_proj": 20}},
    {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"o_proj": 7}},
    {"target_modules": r".*layers\.1.*proj"},
    {"layers_to_transform": [1], "target_modules": ["q_proj"]},
]


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
@pytest.mark.parametrize(
    ("method", "arguments"),
    [("linear", {}), ("slerp", {}), ("tsv", {}), ("magmax", {}), ("ties", {"density": 1.0})],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_variant_of_lora_merged_alone_is_what_it_was(
    tmp_path: Path, settings: dict[str, Any], method: str, arguments: dict[str, Any]
):
    from peft import PeftModel

    expected = adapter(tmp_path / "a", **settings)(IDS).logits
    lora.save(merge([lora.load(tmp_path / "a")], method, [1.0], **arguments).lora, tmp_path / "b")
    found = PeftModel.from_pretrained(tiny.model(), str(tmp_path / "b"))(IDS).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_an_adapter_of_several_ranks_is_merged_saved_and_loaded_by_peft(tmp_path: Path):
    """PEFT merges it, but cannot load what it has then saved."""
    from peft import PeftModel

    for name, rank in (("a", 4), ("b", 2)):
        adapter(tmp_path / name, r=rank, rank_pattern={"q_proj": 5}, lora_alpha=8)
    found = merge([lora.load(tmp_path / name) for name in "ab"], "task_arithmetic", rank=10).lora
    lora.save(found, tmp_path / "c")
    model = PeftModel.from_pretrained(tiny.model(), str(tmp_path / "c"))
    name = "model.layers.1.mlp.up_proj"
    layer = model.get_submodule(f"base_model.model.{name}")
    expected = sum(b @ a for a, b in (lora.load(tmp_path / source).factors[name] for source in "ab"))
    torch.testing.assert_close(layer.get_delta_weight("default"), expected, rtol=1e-5, atol=1e-5)


def merged_by_peft(tmp_path: Path, weights: list[float], **options: Any) -> dict[str, torch.Tensor]:
    from peft import PeftModel

    names = [f"a{i}" for i in range(len(weights))]
    model = PeftModel.from_pretrained(tiny.model(), str(tmp_path / names[0]), adapter_name=names[0])
    for name in names[1:]:
        model.load_adapter(str(tmp_path / name), name)
    model.add_weighted_adapter(names, weights, "merged", **options)
    return {
        name.removeprefix("base_model.model."): module.get_delta_weight("merged")
        for name, module in model.named_modules()
        if "lora" in type(module).__module__ and hasattr(module, "get_delta_weight")
    }


@pytest.mark.parametrize(
    ("theirs", "ours", "weights", "scale"),
    [
        ("svd", "linear", [0.7, -0.2, 0.5], 1.0),
        # In PEFT, equal weights divide the mean of TIES once more: a scale here.
        ("ties_svd", "ties", [0.5, 0.5, 0.5], 0.5),
        ("magnitude_prune_svd", "magnitude_prune", [0.7, -0.2, 0.5], 1.0),
    ],
)
def test_the_numbers_are_those_of_peft_where_it_is_right(
    tmp_path: Path, theirs: str, ours: str, weights: list[float], scale: float
):
    for i in range(3):
        adapter(tmp_path / f"a{i}", r=4, lora_alpha=8, seed=i)
    options = {} if ours == "linear" else {"density": 0.3}
    expected = merged_by_peft(tmp_path, weights, combination_type=theirs, svd_rank=6, **options)
    loras = [lora.load(tmp_path / f"a{i}") for i in range(3)]
    given = weights if ours != "ties" else None
    found = merge(loras, ours, given, rank=6, space="full", scale=scale, **options).lora
    assert expected.keys() == found.factors.keys()
    for name, change in expected.items():
        a, b = found.factors[name]
        torch.testing.assert_close(b @ a, change, rtol=1e-3, atol=1e-4)


def test_the_factors_are_never_merged(tmp_path: Path):
    """PEFT's `linear` adds A to A and B to B: the products of one adapter's A and another's B come in."""
    for i in range(2):
        adapter(tmp_path / f"a{i}", r=4, seed=i)
    wrong = merged_by_peft(tmp_path, [0.5, 0.5], combination_type="linear")
    right = dict(changes([lora.load(tmp_path / f"a{i}") for i in range(2)], "linear"))
    name = "model.layers.0.mlp.up_proj"
    assert (wrong[name] - right[name]).norm() > 0.5 * right[name].norm()
