"""The one decoding engine: rehearsal, evaluation and chat all use it.

Batched and KV-cached. Rows join and leave as they finish; each has its own random stream, so that what it
says does not depend on who else is in the batch. A row enters with its last prompt token as its first input:
what comes before it is computed once per different prompt, a common beginning once for all.
"""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from continual.fold import folded
from continual.guard import guard
from continual.kvcache import SlotCache, States, layers_kept, plain_cache, states_of
from continual.nexttoken import next_tokens
from continual.request import Chosen, Event, Likelihood, Output, Request, Row, RowAdapters, beginning
from continual.sampling import Sampling
from continual.stoptext import StopTexts

guard()

import torch  # noqa: E402

log = logging.getLogger(__name__)

HEADROOM = 128
"""Columns that a cache has for those who join later: it is copied only once in so many steps."""
REFILL = {"cpu": 3.0}
"""Rows join when there can be this many for each one at work (elsewhere 1 for every 8). Every step reads the keys and
values back to the beginning of the oldest row, for all rows: on a CPU that costs more than a half-empty batch does."""
GREEDY = Sampling()
PREFIX = 256
"""A common beginning is computed apart where that saves so many tokens."""


class Decoder:
    """Continues prompts with a causal language model of transformers (or PEFT).

    Either hand over all prompts with `generate`, or drive it: `add` requests at any time, and `step` until it is
    no longer `busy`, with the model in evaluation mode.

    Args:
        model: any decoder of transformers that keeps keys and values.
        stop_ids: tokens that end a continuation.
        pad_id: any id; fills what is masked.
        batch_tokens: the most tokens, prompts and continuations, that a batch may hold.
        max_rows: the most rows at once.
        text: ids to text, for requests with `until`.
        adapters: for requests with `adapter`.

    Raises:
        ContinualError: the model keeps no keys and values, or more than these.
    """

    def __init__(
        self,
        model: Any,
        stop_ids: Sequence[int],
        pad_id: int,
        batch_tokens: int = 131072,
        *,
        max_rows: int = 512,
        text: Callable[[Sequence[int]], str] | None = None,
        adapters: RowAdapters | None = None,
    ) -> None:
        self.model, self.stop_ids, self.pad_id = model, frozenset(stop_ids), pad_id
        self.batch_tokens, self.max_rows, self.adapters = batch_tokens, max_rows, adapters
        self.stop_texts = StopTexts(text) if text is not None else None
        plain = model.get_base_model() if "peft" in type(model).__module__ else model
        self._kept = layers_kept(plain)
        self._positions = "position_ids" in inspect.signature(plain.forward).parameters
        self._head = model.get_output_embeddings()
        self._refill = REFILL.get(model.device.type, 0.125)
        self._queue: deque[tuple[int, Request]] = deque()
        self._rows: list[Row] = []
        self._cache: SlotCache | None = None
        self._prefix: tuple[Chosen, Sequence[int], States] | None = None
        self._added = 0

    @property
    def busy(self) -> bool:
        """Whether a request is waiting or at work."""
        return bool(self._queue) or not all(row.gone for row in self._rows)

    def add(self, request: Request) -> int:
        """Queue a request; its number comes back with its tokens.

        Raises:
            ValueError: the request cannot be answered.
        """
        request.check(self.stop_texts is not None, self.adapters is not None)
        if self.adapters is not None:
            request = replace(request, adapter=self.adapters.hold(request.adapter))
        self._added += 1
        self._queue.append((self._added, request))
        return self._added

    def cancel(self, number: int) -> None:
        """Forget a request, waiting or at work."""
        self._queue = deque(entry for entry in self._queue if entry[0] != number)
        for row in self._rows:
            row.gone = row.gone or row.number == number

    def clear(self) -> None:
        """Forget all requests and everything computed; needed where the model's weights have changed."""
        self._queue.clear()
        self._rows, self._cache, self._prefix = [], None, None
        if self.adapters is not None:
            self.adapters.use(())

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int | Sequence[int],
        sampling: Sampling = GREEDY,
        seeds: Sequence[int] | None = None,
        skip_stops: int = 0,
        until: str | Sequence[str] = (),
        adapters: Sequence[Chosen] | None = None,
    ) -> list[Output]:
        """Continue every prompt; see `Request` for the arguments.

        Where a GPU has no memory for the batch, it is halved, and the rows that were not done start again: each
        says the same in any batch.

        Returns:
            One output for each prompt, in the order of the prompts.
        """
        limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
        seed = seeds if seeds is not None else [None] * len(prompts)
        who = adapters if adapters is not None else [None] * len(prompts)
        each = zip(prompts, limits, seed, who, strict=True)
        ends = (until,) if isinstance(until, str) else tuple(until)
        requests = [Request(p, limit, sampling, s, skip_stops, ends, w) for p, limit, s, w in each]
        # Alike lengths side by side; the longest first, so that no long one is left alone at the end.
        waiting = sorted(range(len(requests)), key=lambda i: (-len(requests[i].prompt), i))
        outputs: dict[int, Output] = {}
        while waiting:
            ids: list[list[int]] = [[] for _ in waiting]
            try:
                for event in self.stream([requests[i] for i in waiting]):
                    ids[event.number].append(event.id)
                    if event.done:
                        outputs[waiting[event.number]] = Output(tuple(ids[event.number]), event.finished)
            except torch.OutOfMemoryError:
                if self.max_rows == 1:
                    raise
                self.max_rows //= 2
                log.warning(f"out of memory in decoding: going on with at most {self.max_rows} rows at once")
            waiting = [i for i in waiting if i not in outputs]
        return [outputs[i] for i in range(len(requests))]

    def stream(self, requests: Sequence[Request]) -> Iterator[Event]:
        """The tokens of some requests as they come; an event's number is the request's place in the list."""
        with self._evaluating():
            first = self._added + 1
            for request in requests:
                self.add(request)
            while self.busy:
                yield from (replace(event, number=event.number - first) for event in self.step())

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        training = self.model.training
        self.model.eval()
        self.clear()
        try:
            with folded(self.model):
                yield
        finally:
            self.clear()
            self.model.train(training)

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """One token for every row at work, after as many of the waiting have joined as there is room for."""
        self._close_gaps()
        self._admit()
        if not self._rows:
            return []
        cache = self._cache
        assert cache is not None
        starts, who = [row.start for row in self._rows], [row.request.adapter for row in self._rows]
        lo = min(starts)
        cache.look_from(lo)
        # Where every row at work began together no mask is needed, and attention takes its fast path.
        masked = max(starts) > lo
        logits = self._forward([[row.newest] for row in self._rows], starts, lo, masked, cache, who)[:, -1].float()
        return self._events(*next_tokens(logits, self._rows))

    def _forward(
        self, ids: list[list[int]], starts: list[int], lo: int, masked: bool, cache: Any, who: Sequence[Chosen]
    ) -> torch.Tensor:
        """Logits of the next tokens, (rows, columns, vocab).

        Args:
            ids: one or more tokens for each row, to be written at the cache's next columns.
            starts: the column of each row's first token.
            lo: the first column that the cache shows.
            masked: whether columns before a row's start are to be hidden from it.
            cache: what `ids` continue.
            who: the adapter of each row.
        """
        device = self.model.device
        new, hi = len(ids[0]), lo + cache.get_seq_length()
        begin = torch.tensor(starts, device=device)[:, None]
        call: dict[str, Any] = {
            "input_ids": torch.tensor(ids, device=device),
            "past_key_values": cache,
            "use_cache": True,
        }
        columns = torch.arange(lo, hi + new, device=device)
        if masked:
            call["attention_mask"] = (columns >= begin).long()
        if self._positions:
            call["position_ids"] = columns[-new:] - begin
        if self.adapters is not None:
            self.adapters.use(who)
        logits: torch.Tensor = self.model(**call).logits
        return logits

    def _fill(self, ids: list[list[int]], cache: Any, who: Sequence[Chosen]) -> None:
        """Compute keys and values; of the logits, which nobody reads, only those of the last column."""

        def last(module: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            return (args[0][:, -1:], *args[1:])

        # Not by `logits_to_keep`, which not every architecture takes.
        with self._head.register_forward_pre_hook(last):
            self._forward(ids, [0] * len(ids), 0, False, cache, who)

    def _events(self, tokens: list[int], told: Mapping[int, Likelihood]) -> list[Event]:
        """Give every row its token; those that have ended leave."""
        events = []
        for n, (row, token) in enumerate(zip(self._rows, tokens, strict=True)):
            row.ids.append(token)
            stops = token in self.stop_ids
            if stops and row.skips:
                row.skips, stops = row.skips - 1, False
            finished = stops or (
                self.stop_texts is not None and self.stop_texts.end(row.request.until, row.ids, row.request.skip_stops)
            )
            row.gone = finished or row.left == 0
            events.append(Event(row.number, token, row.gone, finished, told.get(n)))
        return events

    def _close_gaps(self) -> None:
        """Fill the places of those that have left with the last ones."""
        staying = sum(not row.gone for row in self._rows)
        holes = [n for n in range(staying) if self._rows[n].gone]
        if holes:
            assert self._cache is not None
            last = [n for n in range(staying, len(self._rows)) if not self._rows[n].gone]
            self._cache.move(last, holes)
            for hole, n in zip(holes, last, strict=True):
                self._rows[hole] = self._rows[n]
        del self._rows[staying:]

    def _admit(self) -> None:
        """Let those who wait join, first come first served, as many as the budgets allow."""
        need = max((len(row.request.prompt) + row.request.max_new_tokens for row in self._rows), default=0)
        joining: list[tuple[int, Request]] = []
        for number, request in self._queue:
            need = max(need, len(request.prompt) + request.max_new_tokens)
            rows = len(self._rows) + len(joining)
            if rows and (rows >= self.max_rows or (rows + 1) * need > self.batch_tokens):
                break
            joining.append((number, request))
        if not joining or len(joining) < min(len(self._queue), self._refill * len(self._rows)):
            return
        for _ in joining:
            self._queue.popleft()
        before = [len(request.prompt) - 1 for _, request in joining]
        states, sources = self._prefill([(request.prompt[:-1], request.adapter) for _, request in joining])
        left = max([request.max_new_tokens for _, request in joining] + [row.left for row in self._rows])
        cache = self._room(len(joining), max(before), left)
        cache.put(states, sources, before, len(self._rows))
        for length, (number, request) in zip(before, joining, strict=True):
            draws = None
            if request.sampling.temperature > 0:
                draws = np.random.default_rng(request.seed).random(request.max_new_tokens)
            self._rows.append(Row(number, request, cache.hi - length, draws, request.skip_stops))

    def _room(self, joining: int, before: int, left: int) -> SlotCache:
        """The cache, or a new one, with room for some more rows.

        Args:
            before: the most tokens of theirs that are already computed.
            left: the most tokens that any row may still write.
        """
        cache, used = self._cache, len(self._rows)
        spare = HEADROOM if self._queue else 0
        if not used or cache is None:
            cache = SlotCache(self._kept, joining, before + left + spare, before)
        elif cache.rows < used + joining or cache.hi < before or cache.columns < cache.hi + left:
            lo = min(row.start for row in self._rows)
            at = max(0, before - (cache.hi - lo))
            cache = cache.repack(used, used + joining, lo, at, at + cache.hi - lo + left + spare)
            for row in self._rows:
                row.start += at - lo
        self._cache = cache
        return cache

    def _prefill(self, prompts: Sequence[tuple[Sequence[int], Chosen]]) -> tuple[States | None, list[int]]:
        """Keys and values of some prompts, each with its adapter: each different one once, and what all begin with
        once.

        Returns:
            The states, prompts filled up on the right, and the row of each prompt in them; None where all prompts
            are empty.
        """
        different = list(dict.fromkeys((tuple(prompt), name) for prompt, name in prompts))
        row_of = {prompt: n for n, prompt in enumerate(different)}
        sources = [row_of[tuple(prompt), name] for prompt, name in prompts]
        if not any(prompt for prompt, _ in different):
            return None, sources
        who = [name for _, name in different]
        cache, common = plain_cache(self._kept), 0
        if len(set(who)) == 1:
            common = self._shared([prompt for prompt, _ in different], who[0])
            for n, pair in enumerate(self._prefix[2] if self._prefix is not None and common else ()):
                if pair is not None:
                    keys, values = (states[:, :, :common].expand(len(different), -1, -1, -1) for states in pair)
                    cache.update(keys, values, n)
        rests = [list(prompt[common:]) for prompt, _ in different]
        longest = max(map(len, rests))
        if longest:
            # Filled up on the right, where a causal model does not look: no mask is needed.
            ids = [rest + [self.pad_id] * (longest - len(rest)) for rest in rests]
            self._fill(ids, cache, who)
        return states_of(cache), sources

    def _shared(self, prompts: Sequence[tuple[int, ...]], who: Chosen) -> int:
        """How many tokens all prompts begin with whose states are at hand, in `_prefix`; computed where it pays."""
        common = beginning(*prompts)
        if self._prefix is not None and self._prefix[0] == who:
            known = len(beginning(self._prefix[1], common))
            if known and 2 * known >= len(common):
                return known
        if not common or (len(prompts) > 1 and len(common) * len(prompts) < PREFIX):
            return 0
        cache = plain_cache(self._kept)
        self._fill([list(common)], cache, [who])
        self._prefix = (who, common, states_of(cache))
        return len(common)

    def choice_logprobs(
        self, prompts: Sequence[Sequence[int]], choices: Sequence[Sequence[Sequence[int]]]
    ) -> list[list[float]]:
        """The log-likelihood of each choice after its prompt, summed over the choice's tokens, in nats.

        What is asked is computed once for all its choices.
        """
        values = [[0.0] * len(row) for row in choices]
        pairs = [(i, j) for i, row in enumerate(choices) for j in range(len(row))]
        pairs.sort(key=lambda pair: (-len(prompts[pair[0]]), pair))
        with self._evaluating():
            while pairs:
                need = len(prompts[pairs[0][0]]) + max(len(choices[i][j]) for i, j in pairs[: self.max_rows])
                rows = min(self.max_rows, max(1, self.batch_tokens // need))
                batch, pairs = pairs[:rows], pairs[rows:]
                told = self._logprobs([(prompts[i], choices[i][j]) for i, j in batch])
                for (i, j), value in zip(batch, told, strict=True):
                    values[i][j] = value
        return values

    @torch.inference_mode()
    def _logprobs(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[float]:
        before = [len(prompt) - 1 for prompt, _ in rows]
        longest = max(len(choice) for _, choice in rows)
        cache = SlotCache(self._kept, len(rows), max(before) + longest, max(before))
        states, sources = self._prefill([(prompt[:-1], None) for prompt, _ in rows])
        cache.put(states, sources, before, 0)
        starts = [cache.hi - length for length in before]
        cache.look_from(0)
        ids = [[prompt[-1], *choice[:-1], *[self.pad_id] * (longest - len(choice))] for prompt, choice in rows]
        logits = self._forward(ids, starts, 0, any(starts), cache, [None] * len(rows))
        values = []
        for (_, choice), told in zip(rows, logits, strict=True):
            log_p = told[: len(choice)].float().log_softmax(-1)
            values.append(float(log_p.gather(1, torch.tensor(choice, device=log_p.device)[:, None]).sum()))
        return values
