"""The base model, its tokenizer, the adapter on it, and the facade that the training loop sees."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from continual.batch import LMBatch
from continual.errors import ContinualError
from continual.guard import guard
from continual.hub import check
from continual.paths import builtin_model

guard()

import torch  # noqa: E402
from torch import nn  # noqa: E402

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)


def resolve(name: str) -> str:
    """A model's folder or Hub name; ``builtin:tinyworld`` is the one that is shipped.

    Raises:
        ContinualError: there is no such embedded model.
    """
    if not name.startswith("builtin:"):
        return name
    folder = builtin_model(name.removeprefix("builtin:"))
    if not folder.is_dir():
        known = ", ".join(f"builtin:{p.name}" for p in sorted(folder.parent.glob("*")) if (p / "config.json").exists())
        raise ContinualError(f"model_name_or_path: there is no embedded model {name!r}; there is {known}")
    return str(folder)


def _load(what: str, name: str, load: Any) -> Any:
    check(resolve(name))
    try:
        return load()
    except (OSError, ValueError, KeyError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ContinualError(
            f"model_name_or_path: cannot load the {what} of '{name}': {reason.strip()[:300]}"
        ) from error


def load_tokenizer(name: str, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model.

    Raises:
        ContinualError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    return _load(
        "tokenizer",
        name,
        lambda: AutoTokenizer.from_pretrained(resolve(name), trust_remote_code=trust_remote_code),
    )


def load_model(name: str, dtype: str = "auto", trust_remote_code: bool = False) -> PreTrainedModel:
    """The model with its language-modelling head, in evaluation mode.

    Args:
        dtype: ``auto`` is float32 on a CPU, whose half-precision arithmetic is slow, else the checkpoint's
            own.

    Raises:
        ContinualError: it cannot be loaded.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    if dtype == "auto":
        chosen: Any = "auto" if torch.cuda.is_available() else torch.float32
    else:
        chosen = getattr(torch, dtype)
    model = _load(
        "model",
        name,
        lambda: AutoModelForCausalLM.from_pretrained(
            resolve(name), dtype=chosen, trust_remote_code=trust_remote_code, use_safetensors=True
        ),
    )
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def add_adapter(model: PreTrainedModel, settings: Mapping[str, Any], seed: int) -> Any:
    """Put a fresh LoRA adapter on a base model.

    Args:
        settings: arguments of `peft.LoraConfig`.
        seed: decides the adapter's initial weights.

    Raises:
        ContinualError: the settings do not fit the model, such as target modules that it has not.
    """
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    try:
        return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    except ValueError as error:
        raise ContinualError(f"adapter: {str(error).splitlines()[0]}") from error


def load_adapter(model: PreTrainedModel, folder: Path, trainable: bool = False) -> Any:
    """Put a saved adapter on a base model."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)


def max_positions(name: str, trust_remote_code: bool = False) -> int:
    """The most tokens a model can see at once; `sys.maxsize` where its architecture has no limit.

    Raises:
        ContinualError: its configuration cannot be loaded.
    """
    from transformers import AutoConfig

    config = _load(
        "configuration",
        name,
        lambda: AutoConfig.from_pretrained(resolve(name), trust_remote_code=trust_remote_code),
    )
    # Architectures call it differently; transformers maps some names, not all.
    fields = config.get_text_config().to_dict()
    limits = [fields.get(f) for f in ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len")]
    return next((int(limit) for limit in limits if limit is not None), sys.maxsize)


class CausalLM(nn.Module):
    """What Avalanche takes for the model: an `LMBatch` in, logits at its supervised positions out, shape (N,
    vocab).

    The rows are picked just before the output embeddings, by a hook, so that logits are never computed where
    no loss falls, and whatever the model itself does to its logits (scaling, soft caps) still happens.

    `named_parameters` yields the trainable ones only: optimizers and regularisation plugins must not see a
    frozen base.
    """

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        self._rows: torch.Tensor | None = None
        head = inner.get_output_embeddings()
        if head is None:
            raise ContinualError(f"{type(inner).__name__} has no output embeddings: it is no causal language model")
        head.register_forward_pre_hook(self._pick)

    def _pick(self, module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        if self._rows is None:
            return None
        hidden = args[0]
        return (hidden[:, :-1][self._rows].unsqueeze(0), *args[1:])

    def forward(self, x: LMBatch) -> torch.Tensor:
        self._rows = x.supervised
        try:
            logits = self.inner(input_ids=x.input_ids, use_cache=False).logits
        finally:
            self._rows = None
        return logits[0]

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in super().named_parameters(*args, **kwargs) if p.requires_grad)
