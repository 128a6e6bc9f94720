"""The one thread that owns the model: it decodes the rows of all requests together.

Requests come by a queue; tokens go back to the event loop. All that other threads touch is that queue.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch

from continual.decode import Decoder
from continual.request import Event, Request
from continual.serve.errors import ApiError
from continual.serve.metrics import Metrics

log = logging.getLogger(__name__)

T = TypeVar("T")
News = list[tuple[int, Event]] | ApiError


@dataclass(eq=False)
class Job:
    """The rows of one HTTP request; belongs to the event loop."""

    requests: Sequence[Request]
    news: asyncio.Queue[News] = field(default_factory=asyncio.Queue)
    open: set[int] = field(default_factory=set)
    """Rows that are not done."""

    async def events(self) -> AsyncIterator[list[tuple[int, Event]]]:
        """Tokens with the row they belong to, as they come, until every row is done.

        Raises:
            ApiError: the engine could not go on with it.
        """
        left = len(self.requests)
        while left:
            news = await self.news.get()
            if isinstance(news, ApiError):
                raise news
            left -= sum(event.done for _, event in news)
            yield news


class Engine:
    """Decodes for everybody.

    Args:
        decoder: used by the engine's thread alone.
        max_queue: the most rows that wait while `decoder.max_rows` are at work.
        metrics: is told how many rows are at work.
    """

    def __init__(self, decoder: Decoder, max_queue: int, metrics: Metrics) -> None:
        self.decoder, self.metrics = decoder, metrics
        self.most = decoder.max_rows + max_queue
        self.in_flight = 0
        """Rows that are not done; belongs to the event loop."""
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._rows: dict[int, tuple[Job, int]] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        """Begin; called in the event loop that will ask."""
        self._loop = asyncio.get_running_loop()
        self.decoder.model.eval()
        self._thread.start()

    async def stop(self) -> None:
        """End when everything in flight is done."""
        self._inbox.put(self._stop)
        await asyncio.to_thread(self._thread.join)

    def check(self, count: int) -> None:
        """Raise an ApiError where so many answers are more than the engine ever takes at once."""
        if count > self.most:
            raise ApiError(400, f"{count} answers at once: this server takes {self.most}", None, "n")

    def submit(self, requests: Sequence[Request]) -> Job:
        """Queue the rows of a request.

        Raises:
            ApiError: too many are waiting, or these alone are more than may.
        """
        self.check(len(requests))
        if self.in_flight + len(requests) > self.most:
            raise ApiError(429, f"{self.in_flight} answers are being written or wait: try again later", "queue_full")
        job = Job(requests, open=set(range(len(requests))))
        self.in_flight += len(requests)
        self._inbox.put(partial(self._begin, job))
        return job

    def cancel(self, job: Job) -> None:
        """Forget a job, done or not."""
        if job.open:
            self.in_flight -= len(job.open)
            job.open.clear()
            self._inbox.put(partial(self._cancel, job))

    # What follows runs in the engine's thread.

    def _work(self) -> None:
        while not (self._stopping and not self.decoder.busy):
            for command in self._commands():
                command()
            if self.decoder.busy:
                self._step()

    def _commands(self) -> Iterator[Callable[[], None]]:
        """What has come in; where there is nothing to do, the next that comes."""
        if not self.decoder.busy:
            self.metrics.at_rest()
            yield self._inbox.get()
        while not self._inbox.empty():
            yield self._inbox.get()

    def _stop(self) -> None:
        self._stopping = True

    def _begin(self, job: Job) -> None:
        for row, request in enumerate(job.requests):
            self._rows[self.decoder.add(request)] = job, row

    def _cancel(self, job: Job) -> None:
        for number in [number for number, (other, _) in self._rows.items() if other is job]:
            self.decoder.cancel(number)
            del self._rows[number]

    def _step(self) -> None:
        try:
            events = self.decoder.step()
        except Exception as error:  # whatever it is, those who wait are told, and the others go on being served
            self._fail(error)
            return
        self.metrics.step(len(events), len(self._rows) - len(events))
        news: dict[Job, list[tuple[int, Event]]] = {}
        for event in events:
            job, row = self._rows[event.number]
            news.setdefault(job, []).append((row, event))
            if event.done:
                del self._rows[event.number]
        if news:
            self._post(self._deliver, news)

    def _fail(self, error: Exception) -> None:
        log.exception("decoding failed", exc_info=error)
        if isinstance(error, torch.OutOfMemoryError):
            self.decoder.max_rows = max(1, self.decoder.max_rows // 2)
            log.warning(f"out of memory in decoding: going on with at most {self.decoder.max_rows} rows at once")
        jobs = {job for job, _ in self._rows.values()}
        self.decoder.clear()
        self._rows.clear()
        self._post(self._tell, jobs)

    def _post(self, call: Callable[[T], None], news: T) -> None:
        """Let the event loop call something."""
        try:
            self._loop.call_soon_threadsafe(call, news)
        except RuntimeError:  # it is closed: the server was ended at once, and nobody waits any more
            self._stopping = True
            self._rows.clear()
            self.decoder.clear()

    # What follows runs in the event loop.

    def _deliver(self, news: dict[Job, list[tuple[int, Event]]]) -> None:
        for job, events in news.items():
            done = {row for row, event in events if event.done} & job.open
            self.in_flight -= len(done)
            job.open -= done
            job.news.put_nowait(events)

    def _tell(self, jobs: set[Job]) -> None:
        for job in jobs:
            self.in_flight -= len(job.open)
            job.open.clear()
            job.news.put_nowait(ApiError(500, "the model failed on this batch; see the server's log", "engine_error"))
