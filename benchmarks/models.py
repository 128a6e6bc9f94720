"""The models that are measured: the embedded one, a folder, and others of random weights."""

from typing import Any

from continual.guard import guard

guard()

import torch  # noqa: E402

SIZES = {
    "30M": {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8},
    "1B": {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "vocab_size": 32000,
    },
}
"""Llamas; vocabulary 6144 unless told otherwise."""

_SMALL = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "max_position_embeddings": 1024,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 192, "n_layer": 6, "n_head": 4, "n_positions": 1024},
    "gemma2": {**_SMALL, "num_key_value_heads": 2, "head_dim": 48, "sliding_window": 64},
    "qwen3": {**_SMALL, "num_key_value_heads": 2, "head_dim": 48},
    "gpt_neox": _SMALL,
    "opt": {
        "hidden_size": 192,
        "ffn_dim": 768,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 192,
        "max_position_embeddings": 1024,
    },
    "mistral": {**_SMALL, "num_key_value_heads": 2, "sliding_window": 64},
}
"""About 4 million parameters each, vocabulary 6144."""


def load(name: str) -> Any:
    """A model by size, architecture, folder or `builtin:` name; in float32, on a GPU in bfloat16 from 1B on."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if name in SIZES or name in ARCHITECTURES:
        return _random(name).to(device).eval()
    from continual.model import load_model

    return load_model(name, dtype="float32")


def _random(name: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    family, sizes = ("llama", SIZES[name]) if name in SIZES else (name, ARCHITECTURES[name])
    common = {"vocab_size": 6144, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = AutoConfig.for_model(family, **{**common, "tie_word_embeddings": True, **sizes})
    large = name == "1B" and torch.cuda.is_available()
    return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if large else torch.float32)


def multiplied(model: Any) -> int:
    """Parameters that each token is multiplied with: all but input embeddings that are not the output's too."""
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return sum(p.numel() for p in model.parameters()) - (0 if table is head else table.numel())


def shown(name: str, model: Any) -> str:
    """A name for tables, without any folder."""
    short = name.rstrip("/").rpartition("/")[2].removeprefix("builtin:")
    return f"{short} ({sum(p.numel() for p in model.parameters()) / 1e6:.1f}M)"
