"""Which LoRA adapters other programs load, and load rightly.

The portable profile is one rank and one alpha, on linear layers, and nothing else: no DoRA, no rsLoRA, no patterns, no
layers stored whole, a rank of at most 16. What a reader does with anything else was read in its source:

- vLLM: `vllm/lora/peft_helper.py` (`PEFTHelper`), `vllm/lora/utils.py` (`parse_fine_tuned_lora_name`);
- llama.cpp: `convert_lora_to_gguf.py` and `get_scale` of `src/llama-adapter.h`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from continual.errors import ContinualError

VLLM_RANK = 16
"""vLLM's `--max-lora-rank` if nothing is said."""
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values that it takes."""

LEAVES_BASE = (True, False, "gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` with which the base model stays as it is."""


class Reader(StrEnum):
    """Who shall load an adapter."""

    vllm = "vllm"
    llama_cpp = "llama.cpp"


class Form(StrEnum):
    """As what a taught model can be written."""

    peft = "peft"
    merged = "merged"
    gguf = "gguf"


def check(folder: Path, reader: Reader) -> list[str]:
    """What would not load there, or load wrongly, and why; one line each.

    Raises:
        ContinualError: the folder holds no adapter.
    """
    from safetensors import safe_open

    try:
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        with safe_open(folder / "adapter_model.safetensors", framework="numpy") as file:
            names = list(file.keys())
    except OSError as error:
        raise ContinualError(f"{folder}: no adapter that could be checked ({error.strerror or error})") from error
    faults = (_vllm if reader is Reader.vllm else _llama_cpp)(settings, names)
    return [*faults, *_form_faults(folder, reader)]


def _form_faults(folder: Path, reader: Reader) -> Iterator[str]:
    """Where an endpoint would ask in another form than the one that was taught."""
    manifest, template = folder / "manifest.json", folder / "chat_template.jinja"
    form = json.loads(manifest.read_text(encoding="utf-8")).get("form") if manifest.is_file() else None
    if form is None:
        return
    if not template.is_file():
        yield f"chat_template.jinja: missing; conversations were taught in a form of their own ({form['name']})"
    elif hashlib.sha256(template.read_bytes()).hexdigest() != form["template_sha256"]:
        yield f"chat_template.jinja: does not render what was taught ({form['name']})"
    elif not form["of_base"]:
        option = "--chat-template" if reader is Reader.vllm else "--jinja --chat-template-file"
        yield f"chat_template: the base's is another one; start it with {option} {template}"


def _vllm(settings: Mapping[str, Any], names: Collection[str]) -> Iterator[str]:
    if settings["peft_type"] != "LORA":
        yield f"peft_type: {settings['peft_type']} adapters are not loaded, only LoRA"
        return
    rank = max(settings["r"], *(settings.get("rank_pattern") or {}).values(), 0)
    if rank > VLLM_RANK:
        fitting = next((f"start it with --max-lora-rank {n}" for n in VLLM_RANKS if n >= rank), "no setting allows it")
        yield f"r: {rank} is more than its --max-lora-rank of {VLLM_RANK}; {fitting}"
    if settings.get("use_dora"):
        yield "use_dora: refused (vLLM does not yet support DoRA)"
    if settings.get("modules_to_save"):
        yield f"modules_to_save: refused ({', '.join(settings['modules_to_save'])})"
    for key in ("rank_pattern", "alpha_pattern"):
        if settings.get(key):
            yield f"{key}: not read; every layer would be scaled by lora_alpha / r"
    yield from _changed_base(settings)
    known = (".lora_A.weight", ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B", ".lora_magnitude_vector")
    odd = [name for name in names if not name.endswith(known) and not _stored_whole(name, settings)]
    if odd:
        yield f"tensors: {odd[0]} is unsupported LoRA weight"


def _llama_cpp(settings: Mapping[str, Any], names: Collection[str]) -> Iterator[str]:
    if settings["peft_type"] != "LORA":
        yield f"peft_type: {settings['peft_type']} adapters are not converted, only LoRA"
        return
    if settings.get("use_rslora"):
        yield "use_rslora: not read; its change would be too small by sqrt(r)"
    if settings.get("use_dora"):
        yield "use_dora: refused (unexpected name lora_magnitude_vector)"
    if settings.get("modules_to_save"):
        yield f"modules_to_save: refused ({', '.join(settings['modules_to_save'])})"
    if settings.get("alpha_pattern"):
        yield "alpha_pattern: not read; every layer would have the same lora_alpha"
    yield from _changed_base(settings)
    known = (".lora_A.weight", ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B", ".lora_magnitude_vector")
    odd = [name for name in names if not name.endswith(known) and not _stored_whole(name, settings)]
    if odd:
        yield f"tensors: unexpected name {odd[0]}"


def _changed_base(settings: Mapping[str, Any]) -> Iterator[str]:
    start = settings.get("init_lora_weights", True)
    if start not in LEAVES_BASE:
        yield f"init_lora_weights: {start} changes the base model, which is not done there"


def _stored_whole(name: str, settings: Mapping[str, Any]) -> bool:
    return any(f".{module}." in name for module in settings.get("modules_to_save") or ())


def notices(settings: Mapping[str, Any]) -> list[str]:
    """What a recipe's `adapter` asks for that other programs do not load as it is.

    Args:
        settings: of `continual.settings.Adapter`, those that are given.
    """
    found = []
    for key in ("use_dora", "modules_to_save", "target_parameters"):
        if settings.get(key):
            found.append(f"adapter.{key}: neither vLLM nor llama.cpp loads it (continual export --to merged can help)")
    for key, reader in (
        ("use_rslora", "llama.cpp"),
        ("rank_pattern", "vLLM"),
        ("alpha_pattern", "vLLM and llama.cpp"),
    ):
        if settings.get(key):
            found.append(f"adapter.{key}: {reader} would scale it wrongly (continual export makes it plain)")
    if settings["r"] > VLLM_RANK:
        found.append(f"adapter.r: vLLM loads ranks above {VLLM_RANK} only with --max-lora-rank")
    return found
