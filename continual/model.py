"""The base model, its tokenizer, the adapter on it, and the facade that the training loop sees."""

from __future__ import annotations

import logging
import struct
import sys
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from continual import crossentropy
from continual.batch import LMBatch
from continual.crossentropy import LossOf
from continual.errors import ContinualError
from continual.guard import guard
from continual.hub import check
from continual.origin import Origin
from continual.precision import has_bfloat16
from continual.targets import check as check_targets
from continual.targets import lora_settings

guard()

import torch  # noqa: E402
from torch import nn  # noqa: E402

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

_LOADING = threading.Lock()

LogitsOf = Callable[[slice], torch.Tensor]
"""Gives logits, (n, vocab), of a slice of a batch's supervised positions."""

CHUNK = 2**24
"""The most logits that exist at a time where nothing needs all: 64 MiB in float32, and as much for their gradient."""


def _origin(base: Origin | str) -> Origin:
    return Origin(base) if isinstance(base, str) else base


def _load(what: str, origin: Origin, load: Callable[[str, dict[str, Any]], Any]) -> Any:
    place, arguments = origin.files
    check(place, origin.revision)
    try:
        return load(place, arguments)
    except torch.OutOfMemoryError:
        raise
    # A library may be missing (ImportError), or not work on this device (RuntimeError); a broken GGUF file is a
    # struct.error.
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, struct.error) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if "trust_remote_code" in str(error) and not origin.trust_remote_code:
            reason = (
                "Python code comes with it, which runs only where you allow it now: --trust-remote-code with a run, "
                "trust_remote_code: true in a recipe of yours"
            )
        raise ContinualError(
            f"model_name_or_path: cannot load the {what} of '{origin.name}': {reason.strip()[:300]}"
        ) from error


def load_tokenizer(base: Origin | str) -> Any:
    """The tokenizer of a model.

    Raises:
        ContinualError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    return _load("tokenizer", _origin(base), lambda place, given: AutoTokenizer.from_pretrained(place, **given))


def load_config(base: Origin | str) -> Any:
    """The configuration of a model.

    Raises:
        ContinualError: it cannot be loaded.
    """
    from transformers import AutoConfig

    return _load("configuration", _origin(base), lambda place, given: AutoConfig.from_pretrained(place, **given))


def own_type(base: Origin | str) -> torch.dtype:
    """The type of a base model's own weights, as its configuration says; float32 where it says nothing."""
    stored = getattr(load_config(base), "dtype", None)
    return stored if isinstance(stored, torch.dtype) else torch.float32


def load_model(base: Origin | str, dtype: str = "auto") -> PreTrainedModel:
    """The model with its language-modelling head, in evaluation mode.

    Args:
        dtype: ``auto`` is the checkpoint's own, but float32 on a processor without bfloat16 arithmetic.

    Raises:
        ContinualError: it cannot be loaded, some weights are not in the checkpoint, or are no finite numbers.
    """
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    origin = _origin(base)
    if dtype == "auto":
        chosen: Any = "auto" if has_bfloat16("cuda" if torch.cuda.is_available() else "cpu") else torch.float32
    else:
        chosen = getattr(torch, dtype)
    extra: dict[str, Any] = {"dtype": chosen, "output_loading_info": True}
    if origin.attn_implementation is not None:
        extra["attn_implementation"] = origin.attn_implementation

    def load(place: str, given: dict[str, Any]) -> Any:
        if origin.quantization is not None:
            extra["quantization_config"] = BitsAndBytesConfig(**origin.quantization)
        if "gguf_file" not in given:
            extra["use_safetensors"] = True
        return AutoModelForCausalLM.from_pretrained(place, **given, **extra)

    # transformers turns the tying of weights off while it loads, for the whole process: of two threads that
    # load at a time, the second would put it back as off, and every later tied head would be random.
    with _LOADING:
        model, report = _load("model", origin, load)
    if "gguf_file" in origin.files[1]:
        model.name_or_path = origin.place  # else an adapter would name the folder, and not the file
    check_weights(origin.name, model, report["missing_keys"])
    # Quantised weights lie where they were quantised.
    if quantized(model):
        return model.eval()
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def quantized(model: Any) -> bool:
    """Whether a model's weights are stored in fewer bits than numbers have."""
    return getattr(model.config, "quantization_config", None) is not None


def check_weights(name: str, model: Any, missing: Collection[str]) -> None:
    """See that a model is what its checkpoint says.

    Args:
        missing: names of weights that the checkpoint lacks, and that transformers drew at random.

    Raises:
        ContinualError: weights are missing, or some are no finite numbers; with their names.
    """
    if missing:
        raise ContinualError(
            f"model_name_or_path: '{name}' lacks weights of {type(model).__name__}, which would be random: "
            f"{_some(sorted(missing))}"
        )
    plain = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    wrong = [key for key, p in model.named_parameters() if p.dtype in plain and not bool(torch.isfinite(p).all())]
    if wrong:
        raise ContinualError(f"model_name_or_path: '{name}' has weights that are no finite numbers: {_some(wrong)}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def add_adapter(model: PreTrainedModel, settings: Mapping[str, Any], seed: int, revision: str | None = None) -> Any:
    """Put a fresh LoRA adapter on a base model.

    Args:
        settings: arguments of `peft.LoraConfig`.
        seed: decides the adapter's initial weights.
        revision: of the base, for those who load the adapter later.

    Raises:
        ContinualError: the settings do not fit the model, such as target modules that it has not.
    """
    from peft import LoraConfig, get_peft_model

    check_targets(model, settings)
    torch.manual_seed(seed)
    try:
        config = LoraConfig(task_type="CAUSAL_LM", revision=revision, **lora_settings(model, settings))
        return get_peft_model(model, config)
    except ValueError as error:
        raise ContinualError(f"adapter: {str(error).splitlines()[0]}") from error


def load_adapter(model: PreTrainedModel, folder: Path, trainable: bool = False) -> Any:
    """Put a saved adapter on a base model."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)


def max_positions(base: Origin | str) -> int:
    """The most tokens a model can see at once; `sys.maxsize` where its architecture has no limit.

    Raises:
        ContinualError: its configuration cannot be loaded.
    """
    # Architectures call it differently; transformers maps some names, not all.
    fields = load_config(base).get_text_config().to_dict()
    limits = [fields.get(f) for f in ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len")]
    return next((int(limit) for limit in limits if limit is not None), sys.maxsize)


def checkpoint_activations(model: Any) -> None:
    """In training, keep only what enters each layer, and compute the rest again for the gradient.

    Raises:
        ContinualError: the architecture cannot do it.
    """
    try:
        with warnings.catch_warnings():
            # The new name of this method came after transformers 5.0.
            warnings.filterwarnings("ignore", message="`gradient_checkpointing_enable` is deprecated")
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    except ValueError as error:
        raise ContinualError(f"training.gradient_checkpointing: {str(error).splitlines()[0]}") from error


def check_compiler(device: torch.device) -> None:
    """See that `torch.compile` works here, by compiling one addition.

    Raises:
        ContinualError: it does not, for lack of a C++ compiler above all.
    """
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))
    # What is missing shows in many ways, from the compiler itself to a header that it does not find.
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise ContinualError(
            f"training.torch_compile: torch cannot compile here, which needs a C++ compiler such as g++ ({reason})"
        ) from error


@contextmanager
def compiled(model: Any) -> Iterator[None]:
    """While it lasts, each layer of a model runs compiled, for any number of rows and tokens.

    Layer by layer, because equal layers share what is compiled; and not for longer, because decoding calls the
    same layers with other shapes, and each would have to be compiled too.

    Raises:
        ContinualError: the model has no layers that could be told.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ContinualError(f"training.torch_compile: {type(model).__name__} has no layers that can be compiled")
    for layer in layers:
        layer.compile(dynamic=True)
    try:
        yield
    finally:
        for layer in layers:
            layer._compiled_call_impl = None


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
        self._chunkable: bool | None = None
        head = inner.get_output_embeddings()
        if head is None:
            raise ContinualError(f"{type(inner).__name__} has no output embeddings: it is no causal language model")
        head.register_forward_pre_hook(self._pick)

    def _pick(self, module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        if self._rows is None:
            return None
        hidden = args[0]
        return (hidden[:, :-1][self._rows].unsqueeze(0), *args[1:])

    def forward(
        self,
        x: LMBatch,
        y: torch.Tensor | None = None,
        weight: torch.Tensor | None = None,
        loss_of: LossOf = crossentropy.plain,
    ) -> torch.Tensor:
        """Logits, (N, vocab); or, given the right tokens and their weights, (N,) each, the weighted loss.

        The loss of more than `CHUNK` logits is computed in chunks.

        Args:
            loss_of: what is learned at a slice of the positions, if not the right tokens alone.
        """
        if y is None or weight is None:
            return self._logits(x)
        if self._in_chunks(x):
            hidden, output = self._decoded(x)
            logits_of = partial(self._after_decoder, output)
            rows = max(1, CHUNK // self._vocabulary)
            return crossentropy.chunked(logits_of, hidden, y, weight, self._tail(), rows, loss_of)
        return loss_of(slice(0, len(y)))(self._logits(x), y, weight)

    @torch.no_grad()
    def in_parts(self, x: LMBatch) -> LogitsOf:
        """What gives the logits at a slice of the supervised positions, without their gradient.

        More than `CHUNK` are made of the decoder's output only when they are asked for, with the precision of now,
        and with the weights that the model then has.
        """
        kind = x.input_ids.device.type
        precision = partial(torch.autocast, kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        if not self._in_chunks(x):
            logits = self._logits(x)
            return lambda part: logits[part]
        hidden, output = self._decoded(x)

        @torch.no_grad()
        def logits_of(part: slice) -> torch.Tensor:
            with precision():
                return self._after_decoder(output, hidden[part])

        return logits_of

    @property
    def _vocabulary(self) -> int:
        return self.inner.get_output_embeddings().weight.shape[0]

    def _in_chunks(self, x: LMBatch) -> bool:
        return len(x.answer) * self._vocabulary > CHUNK and self._can_chunk(x)

    def _logits(self, x: LMBatch) -> torch.Tensor:
        self._rows = x.supervised
        try:
            logits = self.inner(input_ids=x.input_ids, use_cache=False).logits
        finally:
            self._rows = None
        return logits[0]

    def _decoded(self, x: LMBatch) -> tuple[torch.Tensor, Any]:
        """What the decoder gives at supervised positions, (N, width), and the rest of its output."""
        kept: list[Any] = []

        def keep(module: nn.Module, args: Any, output: Any) -> None:
            kept.extend((output.last_hidden_state[:, :-1][x.supervised], output))
            # What comes after the decoder has then nothing to do.
            output.last_hidden_state = output.last_hidden_state[:1, :0]

        with self.inner.get_decoder().register_forward_hook(keep):
            self.inner(input_ids=x.input_ids, use_cache=False)
        return kept[0], kept[1]

    def _after_decoder(self, output: Any, hidden: torch.Tensor) -> torch.Tensor:
        """The model's own way from hidden states (n, width) to logits (n, vocab): head, scales, soft caps.

        Args:
            output: of the decoder; all but its `last_hidden_state` is used.
        """
        decoder = self.inner.get_decoder()
        own = vars(decoder).get("forward")
        decoder.forward = lambda *args, **kwargs: replace(output, last_hidden_state=hidden[None])
        try:
            ids = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
            return self.inner(input_ids=ids, use_cache=False).logits[0]
        finally:
            del decoder.forward
            if own is not None:
                decoder.forward = own

    def _tail(self) -> list[torch.Tensor]:
        """The trained parameters of what comes after the decoder; a tied head's embedding among them."""
        inside = {id(p) for p in self.inner.get_decoder().parameters()}
        head = {id(p) for p in self.inner.get_output_embeddings().parameters()}
        return [p for p in self.parameters() if p.requires_grad and (id(p) not in inside or id(p) in head)]

    def _can_chunk(self, x: LMBatch) -> bool:
        """Whether logits come of the decoder's output row by row; asked once of the model itself, with one row."""
        if self._chunkable is None:
            from transformers.utils import ModelOutput

            first = LMBatch(
                x.input_ids[:1], x.supervised[:1], x.answer[:0], x.cued[:0], x.rehearsed[:0], x.lengths[:1]
            )
            kept: list[Any] = []
            with torch.no_grad():
                with self.inner.get_decoder().register_forward_hook(lambda _, args, output: kept.append(output)):
                    whole = self._logits(first)
                # What an architecture calls its decoder may be its head, as ModernBERT's.
                self._chunkable = isinstance(kept[0], ModelOutput) and torch.allclose(
                    whole,
                    self._after_decoder(kept[0], kept[0].last_hidden_state[:, :-1][first.supervised]),
                    rtol=1e-3,
                    atol=1e-3,
                )
            if not self._chunkable:
                name = type(self.inner).__name__
                log.warning("%s: its loss cannot be computed in chunks, and needs more memory", name)
        return self._chunkable

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in super().named_parameters(*args, **kwargs) if p.requires_grad)
