"""Models and tokenizers of a few thousand parameters, made in a moment, without a network."""

from functools import cache
from pathlib import Path
from typing import Any

from continual.guard import guard

guard()

WORDS = "the a red blue dog cat sees likes big small say what colour is it good bad"
ROLE_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | trim }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

ARCHITECTURES = ("gpt2", "llama", "qwen2", "mistral", "gpt_neox", "opt")
MORE_ARCHITECTURES = ("gemma2", "cohere", "granite", "qwen3")
LATENT: dict[str, Any] = {
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 2,
}
ROUTED: dict[str, Any] = {
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
}
EXPERTS: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"head_dim": 8, "moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2},
    "mixtral": {"num_local_experts": 4},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v3": {**LATENT, **ROUTED},
    "gpt_oss": {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
}
"""Mixtures of experts, with what their configurations have beyond the common fields."""
OTHERS: dict[str, dict[str, Any]] = {**EXPERTS, "youtu": LATENT, "modernbert-decoder": {}, "bert": {}}


@cache
def tokenizer(template: bool = False) -> Any:
    """A byte-level tokenizer of 300 tokens, with role tokens and a chat template or without."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([WORDS] * 20, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<|pad|>", eos_token="<|end|>")
    fast.add_special_tokens({"additional_special_tokens": special[2:]})
    if template:
        fast.chat_template = ROLE_TEMPLATE
    return fast


def model(architecture: str = "llama", seed: int = 0, vocabulary: int = 300) -> Any:
    """A random model of an architecture: 2 layers, width 16 (32 where heads need it)."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    common = {"vocab_size": vocabulary, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    if architecture == "gpt2":
        config = AutoConfig.for_model(
            "gpt2",
            n_embd=16,
            n_layer=2,
            n_head=2,
            n_positions=128,
            attn_pdrop=0,
            embd_pdrop=0,
            resid_pdrop=0,
            **common,
        )
    elif architecture == "opt":
        config = AutoConfig.for_model(
            "opt",
            hidden_size=16,
            ffn_dim=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            word_embed_proj_dim=16,
            max_position_embeddings=128,
            dropout=0.0,
            attention_dropout=0.0,
            **common,
        )
    else:
        config = AutoConfig.for_model(
            architecture,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=128,
            **{
                **common,
                **({} if architecture == "gpt_neox" else {"num_key_value_heads": 1}),
                **({"head_dim": 8} if architecture in ("gemma2", "qwen3") else {}),
                **OTHERS.get(architecture, {}),
            },
        )
    return AutoModelForCausalLM.from_config(
        config, attn_implementation="eager" if architecture in ("gemma2", "gpt_oss") else "sdpa"
    ).eval()


def saved(folder: Path, architecture: str = "llama", template: bool = False) -> Path:
    """A model and its tokenizer as a folder that transformers can load."""
    model(architecture).save_pretrained(folder)
    tokenizer(template).save_pretrained(folder)
    return folder
