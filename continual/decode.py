"""The one decoding engine: rehearsal, evaluation and chat all use it.

Batched and KV-cached; rows leave the batch as they finish. Each row has its own random stream, so that what
it says does not depend on who else is in the batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from continual.errors import ContinualError
from continual.guard import guard

guard()

import torch  # noqa: E402


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; a temperature of 0 takes the likeliest."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0


@dataclass(frozen=True)
class Output:
    """What one prompt was continued with."""

    ids: tuple[int, ...]
    """Without the prompt; the stop token is the last one where there is one."""
    finished: bool
    """Whether it ended in a stop token, not at the length limit."""


class Decoder:
    """Continues prompts with a causal language model of transformers (or PEFT).

    Args:
        model: in evaluation mode while it decodes; its mode is put back afterwards.
        stop_ids: tokens that end a continuation.
        pad_id: fills prompts on the left; masked.
        batch_tokens: the most tokens, prompts and continuations, that a batch may hold.
    """

    def __init__(self, model: Any, stop_ids: Sequence[int], pad_id: int, batch_tokens: int = 16384) -> None:
        self.model, self.stop_ids, self.pad_id, self.batch_tokens = (
            model,
            tuple(stop_ids),
            pad_id,
            batch_tokens,
        )
        plain = model.get_base_model() if "peft" in type(model).__module__ else model
        self._takes_positions = "position_ids" in inspect.signature(plain.forward).parameters

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int | Sequence[int],
        sampling: Sampling = Sampling(),
        seeds: Sequence[int] | None = None,
        skip_stops: int = 0,
    ) -> list[Output]:
        """Continue every prompt.

        Args:
            prompts: token ids, none empty.
            max_new_tokens: the limit for all, or one for each.
            seeds: one for each prompt; needed where something is drawn.
            skip_stops: this many stop tokens of a row do not end it (in many chat templates a prompt ends with the
                same token as an answer, and rehearsal writes both).

        Returns:
            One output for each prompt, in the order of the prompts.
        """
        limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
        if sampling.temperature > 0 and seeds is None:
            raise ValueError("sampling needs a seed for each prompt")
        results: list[Output | None] = [None] * len(prompts)
        training = self.model.training
        self.model.eval()
        try:
            for batch in self._batches(prompts, limits):
                outputs = self._decode(
                    [prompts[i] for i in batch],
                    [limits[i] for i in batch],
                    sampling,
                    [seeds[i] for i in batch] if seeds is not None else None,
                    skip_stops,
                )
                for i, output in zip(batch, outputs, strict=True):
                    results[i] = output
        finally:
            self.model.train(training)
        return [output for output in results if output is not None]

    def _batches(self, prompts: Sequence[Sequence[int]], limits: list[int]) -> Iterator[list[int]]:
        """Prompts of like length together, within the budget of tokens."""
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
        batch: list[int] = []
        longest = 0
        for i in order:
            need = len(prompts[i]) + limits[i]
            if batch and max(longest, need) * (len(batch) + 1) > self.batch_tokens:
                yield batch
                batch, longest = [], 0
            batch.append(i)
            longest = max(longest, need)
        if batch:
            yield batch

    @torch.inference_mode()
    def _decode(
        self,
        prompts: list[Sequence[int]],
        limits: list[int],
        sampling: Sampling,
        seeds: list[int] | None,
        skip_stops: int,
    ) -> list[Output]:
        device = self.model.device
        width, most = max(map(len, prompts)), max(limits)
        ids = torch.full((len(prompts), width), self.pad_id, dtype=torch.long)
        mask = torch.zeros((len(prompts), width), dtype=torch.long)
        for i, prompt in enumerate(prompts):
            ids[i, width - len(prompt) :] = torch.tensor(prompt)
            mask[i, width - len(prompt) :] = 1
        ids, mask = ids.to(device), mask.to(device)
        draws = None
        if seeds is not None and sampling.temperature > 0:
            draws = torch.from_numpy(np.stack([np.random.default_rng(seed).random(most) for seed in seeds])).to(device)
        stops = torch.tensor(self.stop_ids, device=device)
        limit = torch.tensor(limits, device=device)
        written = torch.full((len(prompts), most), self.pad_id, dtype=torch.long, device=device)
        lengths = torch.zeros(len(prompts), dtype=torch.long, device=device)
        finished = torch.zeros(len(prompts), dtype=torch.bool, device=device)
        rows = torch.arange(len(prompts), device=device)  # whom each line of the batch belongs to
        active = torch.ones(len(prompts), dtype=torch.bool, device=device)
        skips = torch.full((len(prompts),), skip_stops, device=device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        # Without padding no mask is needed, and attention takes its fast path.
        padded = bool((mask == 0).any())
        cache = None
        for step in range(most):
            call: dict[str, Any] = {
                "input_ids": ids,
                "past_key_values": cache,
                "use_cache": True,
                "logits_to_keep": 1,
            }
            if padded:
                call["attention_mask"] = mask
            if self._takes_positions:
                call["position_ids"] = positions
            out = self.model(**call)
            if "past_key_values" not in out:
                raise ContinualError(f"{type(self.model).__name__} keeps no key-value cache: not supported")
            cache = out.past_key_values
            token = choose(out.logits[:, -1].float(), sampling, draws[rows, step] if draws is not None else None)
            written[rows[active], step] = token[active]
            lengths[rows[active]] = step + 1
            stopping = torch.isin(token, stops) & active
            stopped = stopping & (skips == 0)
            skips = skips - (stopping & ~stopped).long()
            finished[rows[stopped]] = True
            active = active & ~stopped & (step + 1 < limit[rows])
            left = int(active.sum())
            if left == 0:
                break
            ids, positions = token[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
            if left <= 0.75 * len(active):  # finished rows leave; earlier than this, copying the cache costs more
                keep = active.nonzero()[:, 0]
                cache.batch_select_indices(keep)
                rows, active, skips = rows[keep], active[keep], skips[keep]
                ids, positions, mask = ids[keep], positions[keep], mask[keep]
        ends = zip(written.tolist(), lengths.tolist(), finished.tolist(), strict=True)
        return [Output(tuple(row[:length]), done) for row, length, done in ends]

    def choice_logprobs(
        self, prompts: Sequence[Sequence[int]], choices: Sequence[Sequence[Sequence[int]]]
    ) -> list[list[float]]:
        """The log-likelihood of each choice after its prompt, summed over the choice's tokens, in nats."""
        rows = [(list(p), list(c)) for p, answers in zip(prompts, choices, strict=True) for c in answers]
        values = [0.0] * len(rows)
        training = self.model.training
        self.model.eval()
        try:
            for batch in self._batches([p + c for p, c in rows], [0] * len(rows)):
                for i, value in zip(batch, self._logprobs([rows[i] for i in batch]), strict=True):
                    values[i] = value
        finally:
            self.model.train(training)
        each = iter(values)
        return [[next(each) for _ in answers] for answers in choices]

    @torch.inference_mode()
    def _logprobs(self, rows: list[tuple[list[int], list[int]]]) -> list[float]:
        width = max(len(p) + len(c) for p, c in rows)
        ids = torch.full((len(rows), width), self.pad_id, dtype=torch.long)
        for i, (p, c) in enumerate(rows):
            ids[i, : len(p) + len(c)] = torch.tensor(p + c)
        # Padding stands on the right, where a causal model cannot see it: no mask is needed.
        logits = self.model(input_ids=ids.to(self.model.device), use_cache=False).logits
        values = []
        for i, (p, c) in enumerate(rows):
            told = logits[i, len(p) - 1 : len(p) + len(c) - 1].float().log_softmax(-1)
            values.append(float(told.gather(1, torch.tensor(c, device=told.device)[:, None]).sum()))
        return values


def choose(logits: torch.Tensor, sampling: Sampling, draws: torch.Tensor | None) -> torch.Tensor:
    """The next token of each row.

    Args:
        logits: (rows, vocab) float32.
        draws: (rows,) uniform in [0, 1), one for each row; unused when greedy.

    Returns:
        (rows,) token ids.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    assert draws is not None
    values, tokens = (
        logits.sort(-1, descending=True)
        if not sampling.top_k
        else logits.topk(min(sampling.top_k, logits.shape[-1]), -1)
    )
    # Inverse transform sampling in float64: one number decides a row, whatever the other rows are.
    probabilities = (values.double() / sampling.temperature).softmax(-1)
    total = probabilities.cumsum(-1)
    if sampling.top_p < 1:
        kept = (total - probabilities) < sampling.top_p
        total = total.masked_fill(~kept, 2.0)
        draws = draws * (probabilities * kept).sum(-1)
    place = (total <= draws[:, None]).sum(-1, keepdim=True).clamp(max=total.shape[-1] - 1)
    return tokens.gather(1, place)[:, 0]
