"""How surprised a model is by samples: its loss on their answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from continual.chat import Chat
from continual.decode import Decoder
from continual.sample import Sample


def answer_loss(chat: Chat, batch_tokens: int, max_length: int) -> Callable[[Any, Sequence[Sample]], float]:
    """A function (model, samples) -> mean negative log-likelihood of an answer's token, in nats.

    Args:
        max_length: tokens of a prompt with its answer; a longer prompt loses its middle.
    """

    def loss(model: Any, samples: Sequence[Sample]) -> float:
        decoder = Decoder(model, chat.stop_ids, chat.end_id, batch_tokens)
        words = [chat.answer_ids(sample.answer, sample.delimiter) for sample in samples]
        answers = [[*ids, *chat.end_ids][:max_length] for ids in words]
        rooms = [max_length - len(answer) for answer in answers]
        prompts = [
            chat.prompt_ids(s.prompt, room, s.instruction, s.tools)
            for s, room in zip(samples, rooms, strict=True)
        ]
        told = decoder.choice_logprobs(prompts, [[answer] for answer in answers])
        return -sum(values[0] for values in told) / sum(len(answer) for answer in answers)

    return loss
