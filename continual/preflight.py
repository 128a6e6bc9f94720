"""What is checked of a base model and its adapter before a minute is spent or a file is written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from continual import targets
from continual.errors import ContinualError
from continual.guard import guard
from continual.kvcache import layers_kept
from continual.model import add_adapter, load_config, load_model, quantized
from continual.origin import Origin
from continual.recipe import Recipe

guard()

import torch  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES  # noqa: E402


@dataclass(frozen=True)
class Looked:
    """A base model and its adapter, as their configuration describes them."""

    parameters: int
    adapter_parameters: int
    """0 for full fine-tuning."""
    notices: Sequence[str]


def look(recipe: Recipe) -> Looked:
    """Build the model and its adapter without weights.

    Raises:
        ContinualError: it is no causal language model that can be decoded here, or the adapter does not fit.
    """
    skeleton = _skeleton(recipe.origin)
    _check_libraries(recipe.origin, skeleton.config)
    _check_causal(recipe.model_name_or_path, skeleton)
    layers_kept(skeleton)
    parameters = sum(parameter.numel() for parameter in skeleton.parameters())
    if recipe.adapter is None:
        if quantized(skeleton):
            raise ContinualError(
                f"adapter: is needed: the weights of '{recipe.model_name_or_path}' are quantised and cannot be trained"
            )
        return Looked(parameters, 0, ())
    settings = recipe.adapter.lora_arguments
    notices = targets.notices(skeleton, settings)
    taught = add_adapter(skeleton, settings, seed=0)
    adapter = sum(parameter.numel() for parameter in taught.parameters() if parameter.requires_grad)
    return Looked(parameters, adapter, notices)


def check(recipes: Iterable[Recipe]) -> Sequence[str]:
    """Build every model and adapter of a run, and load the weights once.

    Returns:
        What to mind, one line each.

    Raises:
        ContinualError: something does not fit, or the weights cannot be used.
    """
    notices: dict[str, None] = {}
    first: Recipe | None = None
    seen: list[Any] = []
    for recipe in recipes:
        first = first or recipe
        if recipe.adapter not in seen:
            seen.append(recipe.adapter)
            notices |= dict.fromkeys(look(recipe).notices)
    if first is not None:
        _check_ahead(first.model_name_or_path, load_model(first.origin, first.weights_dtype))
    return list(notices)


def _skeleton(origin: Origin) -> Any:
    """The model without weights: shapes only."""
    config = load_config(origin)
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=origin.trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ContinualError(f"model_name_or_path: no causal language model in '{origin.name}': {reason}") from error


def _check_libraries(origin: Origin, config: Any) -> None:
    """See that what quantised weights are computed with is installed."""
    stored = getattr(config, "quantization_config", None)
    method = None
    if origin.quantization is not None:
        method = "bitsandbytes"
    elif stored is not None:
        method = str(stored["quant_method"] if isinstance(stored, dict) else stored.quant_method)
    if method in ("bitsandbytes", "torchao") and find_spec(method) is None:
        raise ContinualError(f"model_name_or_path: '{origin.name}' needs {method}: pip install {method}")


def _check_causal(name: str, model: Any) -> None:
    """Refuse a model that was made to fill gaps: its attention looks both ways."""
    fields = model.config.to_dict()
    encoder = model.config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    stored = [kind for kind in fields.get("architectures") or () if kind.endswith("ForMaskedLM")]
    if stored or (encoder and not fields.get("is_decoder") and not fields.get("causal")):
        kind = stored[0] if stored else type(model).__name__
        raise ContinualError(
            f"model_name_or_path: '{name}' is a {kind}: its attention looks both ways, it fills gaps and cannot write"
        )


@torch.no_grad()
def _check_ahead(name: str, model: Any) -> None:
    """Refuse a model whose words depend on those that come after them."""
    ids = torch.arange(4, 8, device=model.device)[None] % model.config.get_text_config().vocab_size
    other = ids.clone()
    other[0, -1] = 3
    one, two = (model(input_ids=each, use_cache=False).logits[0, :-1].float() for each in (ids, other))
    if not torch.allclose(one, two, rtol=1e-2, atol=1e-2 * float(one.abs().max())):
        raise ContinualError(
            f"model_name_or_path: '{name}' ({type(model).__name__}) looks at words that come later: it cannot write"
        )
