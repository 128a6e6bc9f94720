"""How well a model still expects neutral text: its perplexity, in windows that do not overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from continual.chat import Chat
from continual.decode import Decoder
from continual.errors import ContinualError
from continual.model import CHUNK


@dataclass(frozen=True)
class Window:
    """A stretch of text as ids."""

    before: list[int]
    """What is given: `bos_ids`, or, where the tokenizer has none, the first token."""
    ids: list[int]
    """What is expected, at least one token."""


def windows(ids: Sequence[int], bos_ids: Sequence[int], max_length: int) -> list[Window]:
    """Cut a text into windows of at most so many tokens, `bos_ids` included; a last token by itself is left out."""
    size = max_length - len(bos_ids)
    parts = [list(ids[at : at + size]) for at in range(0, len(ids), size)]
    if bos_ids:
        return [Window(list(bos_ids), part) for part in parts]
    return [Window(part[:1], part[1:]) for part in parts if len(part) > 1]


def read(file: str, chat: Chat, max_length: int) -> list[Window]:
    """The windows of a text file.

    Raises:
        ContinualError: it cannot be read, or is too short.
    """
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ContinualError(f"evaluate.perplexity: {file} cannot be read as text ({error})") from error
    ids = chat.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    found = windows(ids, chat.bos_ids, max_length)
    if not found:
        raise ContinualError(f"evaluate.perplexity: {file} holds no text")
    return found


def perplexity(model: Any, text: Sequence[Window], chat: Chat, batch_tokens: int) -> float:
    """Exp of the mean negative log-likelihood of a token (Jelinek et al., 1977), over all windows."""
    vocabulary = model.get_output_embeddings().weight.shape[0]
    # Unlike answers, these need logits at every position.
    decoder = Decoder(model, chat.stop_ids, chat.end_id, min(batch_tokens, CHUNK // vocabulary))
    told = decoder.choice_logprobs([window.before for window in text], [[window.ids] for window in text])
    return math.exp(-sum(values[0] for values in told) / sum(len(window.ids) for window in text))
