"""An adapter's folder read as plain tensors: exactly what PEFT computes with it, or refused by name."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from continual import lora
from continual.errors import ContinualError

IDS = torch.arange(20)[None] % 300


def adapter(folder: Path, architecture: str = "llama", seed: int = 1, **settings: Any) -> Any:
    """A PEFT model with a random adapter on a tiny base, saved in a folder."""
    from peft import LoraConfig, get_peft_model

    base = tiny.model(architecture)
    torch.manual_seed(seed)
    made = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **{"target_modules": "all-linear", **settings}))
    for name, parameter in made.named_parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
            assert "lora" in name or "bias" in name or "modules_to_save" in name or "token" in name
    made.save_pretrained(folder)
    return made.eval()


def by_hand(read: lora.Lora, architecture: str = "llama") -> torch.Tensor:
    """Logits of the base model with the changes added to its weights."""
    base = tiny.model(architecture).eval()
    for name, (a, b) in read.factors.items():
        weight = base.get_submodule(name).weight
        delta = b @ a
        weight.data += delta if weight.shape == delta.shape and architecture != "gpt2" else delta.T
    return base(IDS).logits


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"r": 4, "lora_alpha": 32},
        {"use_rslora": True, "r": 4},
        {"rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.down_proj": 5}, "alpha_pattern": {"q_proj": 3, "v_proj": 20}},
        {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"o_proj": 7}},
        {"target_modules": ["q_proj", "down_proj"]},
        {"target_modules": r".*layers\.1.*proj"},
        {"layers_to_transform": [1], "target_modules": ["q_proj"]},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": "orthogonal", "r": 4},
    ],
    ids=str,
)
def test_what_is_read_is_what_peft_computes(tmp_path: Path, settings: dict[str, Any]):
    expected = adapter(tmp_path, **settings)(IDS).logits
    torch.testing.assert_close(by_hand(lora.load(tmp_path)), expected, rtol=1e-5, atol=1e-5)


def test_weights_that_stand_the_other_way_round_are_read_too(tmp_path: Path):
    expected = adapter(tmp_path, "gpt2", target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)(IDS).logits
    torch.testing.assert_close(by_hand(lora.load(tmp_path), "gpt2"), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias"),
        ({"lora_bias": True}, "lora_bias"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights pissa"),
        ({"init_lora_weights": "olora"}, "init_lora_weights olora"),
        ({"trainable_token_indices": [3, 4]}, "trainable_token_indices"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "embed_tokens"),
        ({"alora_invocation_tokens": [3, 4]}, "alora_invocation_tokens"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_is_no_plain_product_is_refused_by_name(tmp_path: Path, settings: dict[str, Any], named: str):
    adapter(tmp_path, **settings)
    with pytest.raises(ContinualError, match=named):
        lora.load(tmp_path)


@pytest.mark.parametrize("setting", [{"use_something_new": True}, {"peft_type": "VERA"}], ids=str)
def test_a_setting_that_nobody_knows_yet_is_refused(tmp_path: Path, setting: dict[str, Any]):
    adapter(tmp_path)
    config = tmp_path / lora.CONFIG
    config.write_text(json.dumps({**json.loads(config.read_text()), **setting}))
    with pytest.raises(ContinualError, match=next(iter(setting))):
        lora.load(tmp_path)


def test_a_folder_without_an_adapter_is_said_to_be_one(tmp_path: Path):
    with pytest.raises(ContinualError, match=r"adapter_config\.json"):
        lora.load(tmp_path)
    adapter(tmp_path)
    (tmp_path / lora.WEIGHTS).write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00not json")
    with pytest.raises(ContinualError, match="cannot be read"):
        lora.load(tmp_path)


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "r": 4}], ids=str)
def test_what_is_saved_is_loaded_by_peft_as_the_same(tmp_path: Path, settings: dict[str, Any]):
    from peft import PeftModel

    expected = adapter(tmp_path / "a", **settings)(IDS).logits
    lora.save(lora.load(tmp_path / "a"), tmp_path / "b", "a-base")
    found = PeftModel.from_pretrained(tiny.model(), str(tmp_path / "b"))(IDS).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    again = lora.load(tmp_path / "b")
    assert again.base == "a-base"
    told = json.loads((tmp_path / "b" / lora.CONFIG).read_text())
    assert (told["r"], told["use_rslora"], told["rank_pattern"]) == (told["lora_alpha"], False, {})


def damaged(folder: Path, settings: Any = None, tensors: Any = None) -> Path:
    """An adapter whose configuration or tensors are changed by a function."""
    adapter(folder)
    if settings is not None:
        config = folder / lora.CONFIG
        config.write_text(json.dumps(settings(json.loads(config.read_text()))))
    if tensors is not None:
        save_file(tensors(load_file(folder / lora.WEIGHTS)), folder / lora.WEIGHTS)
    return folder


def without(key: str) -> Any:
    return lambda settings: {name: value for name, value in settings.items() if name != key}


def with_(**changes: Any) -> Any:
    return lambda settings: settings | changes


DAMAGED: dict[str, tuple[Any, Any, str]] = {
    "a list": (lambda settings: [1], None, "an object is expected"),
    "a text": (lambda settings: "x", None, "an object is expected"),
    "no alpha": (without("lora_alpha"), None, "lora_alpha: "),
    "alpha is text": (with_(lora_alpha="much"), None, "lora_alpha: "),
    "alpha is a number as text": (with_(lora_alpha="16"), None, "lora_alpha: "),
    "a start that is a list": (with_(init_lora_weights=[]), None, "init_lora_weights []"),
    "alpha is null": (with_(lora_alpha=None), None, "lora_alpha: "),
    "no targets": (without("target_modules"), None, "target_modules: "),
    "targets are numbers": (with_(target_modules=[1]), None, "target_modules"),
    "alphas are texts": (with_(alpha_pattern={"q_proj": "x"}), None, "alpha_pattern.q_proj: "),
    "alphas are a list": (with_(alpha_pattern=[1]), None, "alpha_pattern: "),
    "no tensors": (None, lambda tensors: {}, "there are no tensors"),
    "rank 0": (
        None,
        lambda tensors: {
            name: tensor[:0].clone() if "lora_A" in name else tensor[:, :0].clone() for name, tensor in tensors.items()
        },
        "the ranks of its matrices are 0 and 0",
    ),
    "two ranks": (
        None,
        lambda tensors: {name: tensor[:1].clone() if "lora_A" in name else tensor for name, tensor in tensors.items()},
        "the ranks of its matrices are 1 and",
    ),
    "half a module": (
        None,
        lambda tensors: {name: tensor for name, tensor in tensors.items() if "lora_A" in name},
        "there is no lora_B",
    ),
    "other names": (
        None,
        lambda tensors: {name.removeprefix(lora.PREFIX): tensor for name, tensor in tensors.items()},
        "does not begin with base_model.model.",
    ),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_adapter_is_refused_in_one_line_with_the_reason(tmp_path: Path, what: str) -> None:
    settings, tensors, reason = DAMAGED[what]
    with pytest.raises(ContinualError, match=re.escape(reason)) as refused:
        lora.load(damaged(tmp_path, settings, tensors))
    (line,) = refused.value.lines
    assert "\n" not in line and len(line) < 1500
