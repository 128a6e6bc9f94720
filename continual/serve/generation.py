"""`/v1/chat/completions` and `/v1/completions`."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from continual.chat import Chat
from continual.errors import ContinualError
from continual.request import Request
from continual.route import AUTO
from continual.seeds import derive
from continual.serve.answers import Answer, Piece, Text, Token
from continual.serve.bodies import Body, ChatBody, CompletionBody, read
from continual.serve.engine import Engine, Job
from continual.serve.errors import ApiError
from continual.serve.forms import ChatForm, Form, usage
from continual.serve.metrics import Metrics
from continual.serve.roster import Roster, Served
from continual.serve.textstream import TextStream

T = TypeVar("T")

GONE = 499
"""The status of a request whose client has left, as nginx counts them."""


class Generation:
    """Both routes.

    Args:
        room: the most tokens of a prompt and its answer together.
    """

    def __init__(self, engine: Engine, roster: Roster, chat: Chat, room: int, metrics: Metrics) -> None:
        self.engine, self.roster, self.chat, self.room, self.metrics = engine, roster, chat, room, metrics
        embedded = engine.decoder.model.get_input_embeddings().num_embeddings
        self.vocabulary, self.text = min(len(chat.tokenizer), embedded), plain_text(chat)
        self.max_characters = room * max(map(len, chat.tokenizer.get_vocab()))
        """No text that is longer has room, whatever its tokens are."""
        # One thread: what several clients send at once must not take every processor from the model.
        self._reader = ThreadPoolExecutor(1, "tokenizer")
        opening = chat.tokenizer(chat.marks.opening, add_special_tokens=False).input_ids
        self.opening = self.text(opening)

    def close(self) -> None:
        """Take no more requests."""
        self._reader.shutdown(wait=False)

    async def chat_route(self, http: HttpRequest) -> Response:
        body = await read(http, ChatBody)
        messages = [entry.message for entry in body.messages]
        characters = sum(len(text) for message in messages for text in message.texts[1:])  # without its role
        self._check_size("messages", characters, len(messages))
        served, told = await self._who(http, body, lambda: messages[-1].content)
        try:
            prompt = await self._off_loop(lambda: self.chat.prompt_ids(messages, sys.maxsize))
        except ContinualError as error:  # the chat template refuses such a conversation
            raise ApiError(400, str(error), None, "messages") from None
        form = ChatForm(body.model, self.text, body.top is not None, told)
        return await self._answer(http, body, served, [prompt], form, strip=True)

    async def completion_route(self, http: HttpRequest) -> Response:
        body = await read(http, CompletionBody)
        prompts = body.prompts
        if not prompts:
            raise ApiError(400, "there is no prompt", None, "prompt")
        if body.model == AUTO and len(prompts) > 1:
            raise ApiError(400, "auto picks one adapter for a request: send one prompt in each", None, "prompt")
        self.engine.check(len(prompts) * body.n)
        for prompt in prompts:
            characters, tokens = (len(prompt), 0) if isinstance(prompt, str) else (0, len(prompt))
            self._check_size("prompt", characters, tokens)
        ids = [await self._off_loop(partial(self._ids, prompt)) for prompt in prompts]
        first = prompts[0]
        served, told = await self._who(http, body, lambda: first if isinstance(first, str) else self.text(first))
        form = Form(body.model, self.text, body.top is not None, told)
        return await self._answer(http, body, served, ids, form, strip=False)

    def _check_size(self, param: str, characters: int, tokens: int) -> None:
        """Refuse what cannot have room, before it is looked at.

        Args:
            tokens: at least as many there are, whatever the characters say.

        Raises:
            ApiError: there is more than that.
        """
        if characters > self.max_characters or tokens > self.room:
            size = f"{tokens} of the prompt alone" if tokens > self.room else f"not for {characters} characters"
            raise ApiError(
                400, f"this model has room for {self.room} tokens, {size}", "context_length_exceeded", param
            )

    async def _off_loop(self, work: Callable[[], T]) -> T:
        """What some work gives that may take long, done while the event loop goes on."""
        return await asyncio.get_running_loop().run_in_executor(self._reader, work)

    def _ids(self, prompt: str | list[int]) -> list[int]:
        ids = list(self.chat.tokenizer(prompt).input_ids) if isinstance(prompt, str) else prompt
        if not all(0 <= id < self.vocabulary for id in ids):
            raise ApiError(400, f"prompt: token ids lie between 0 and {self.vocabulary - 1}", None, "prompt")
        return ids

    async def _who(self, http: HttpRequest, body: Body, prompt: Callable[[], str]) -> tuple[Served, dict[str, Any]]:
        """Who answers, and what is told of how that was chosen.

        Args:
            prompt: gives what a router picks by.
        """
        http.scope["continual.model"] = "unknown"
        served = self.roster.chosen(body)
        told: dict[str, Any] = {}
        http.scope["continual.model"] = served.name if served.root != "mix" else "mix"
        if served.name == AUTO:
            served, told = await self._off_loop(lambda: self.roster.pick(prompt()))
        return served, told

    async def _answer(
        self, http: HttpRequest, body: Body, served: Served, prompts: list[list[int]], form: Form, strip: bool
    ) -> Response:
        began, model = time.perf_counter(), http.scope["continual.model"]
        # From here on the adapter stays as it is now for this request, whatever is loaded or unloaded.
        adapter = await asyncio.to_thread(self.roster.hold, served)
        # A completion is continued as it is; a chat's answer ends, and begins, as its template has it.
        stops = (*body.stops, *self.chat.stop_texts) if strip else body.stops
        requests: list[Request] = []
        answers: list[Answer] = []
        for prompt in prompts:
            if not prompt:
                raise ApiError(400, "the prompt is empty", None, "prompt")
            limit = self._limit(prompt, body)
            for _ in range(body.n):
                seed = derive(body.seed, "choice", len(requests)) if body.seed is not None else secrets.randbits(63)
                more: dict[str, Any] = {"until": stops, "adapter": adapter, "logprobs": body.top}
                requests.append(Request(prompt, limit, body.sampling, seed, **more))
                stream = TextStream(self.text, stops, strip, self.opening)
                answers.append(Answer(len(answers), stream, self.chat.stop_ids))
        work = Work(self.engine.submit(requests), answers, sum(map(len, prompts)), model, began, self.metrics)
        if body.stream:
            return Events(self.engine, work.job, self._chunks(work, form, body.stream_options.include_usage))
        try:
            return await until_gone(http, self._whole(work, form))
        finally:
            self.engine.cancel(work.job)
            work.count()

    def _limit(self, prompt: Sequence[int], body: Body) -> int:
        """How many tokens may be written; what nobody asked for may be less where there is no more room."""
        limit = body.asked or max(1, min(body.default, self.room - len(prompt)))
        if len(prompt) + limit > self.room:
            raise ApiError(
                400,
                f"this model has room for {self.room} tokens; {len(prompt)} of the prompt and {limit} of the answer "
                "are more",
                "context_length_exceeded",
                "messages" if isinstance(body, ChatBody) else "prompt",
            )
        return limit

    async def _whole(self, work: Work, form: Form) -> Response:
        texts, tokens = ["" for _ in work.answers], [list[Token]() for _ in work.answers]
        reasons: list[str | None] = [None for _ in work.answers]
        async for piece in work.pieces():
            texts[piece.index] += piece.text
            tokens[piece.index] += piece.tokens
            reasons[piece.index] = piece.reason or reasons[piece.index]
        choices = list(zip(texts, tokens, reasons, strict=True))
        return JSONResponse(form.reply(choices, work.usage))

    async def _chunks(self, work: Work, form: Form, with_usage: bool) -> AsyncGenerator[str, None]:
        try:
            for chunk in form.opening(len(work.answers)):
                yield event(chunk)
            async for piece in work.pieces():
                if not piece.empty:
                    yield event(form.part(piece))
            if with_usage:
                yield event(form.chunked([], work.usage))
            yield "data: [DONE]\n\n"
        except ApiError as error:  # the status is sent already
            yield event(error.body)
        finally:
            work.count()


def plain_text(chat: Chat) -> Text:
    """Ids to text without special tokens, as clients see it."""

    def text(ids: Sequence[int]) -> str:
        return str(chat.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    return text


@dataclass
class Work:
    """A request at work."""

    job: Job
    answers: list[Answer]
    prompt_tokens: int
    model: str
    """As the metrics call it."""
    began: float
    metrics: Metrics

    async def pieces(self) -> AsyncIterator[Piece]:
        """What is new of the answers, as it comes."""
        first = True
        async for news in self.job.events():
            if first:
                self.metrics.first_token.labels(self.model).observe(time.perf_counter() - self.began)
                first = False
            for row, told in news:
                yield self.answers[row].take(told)

    @property
    def usage(self) -> dict[str, int]:
        return usage(self.prompt_tokens, sum(answer.count for answer in self.answers))

    def count(self) -> None:
        """Tell the metrics what was read and written."""
        told = self.usage
        self.metrics.prompt_tokens.labels(self.model).inc(told["prompt_tokens"])
        self.metrics.generated_tokens.labels(self.model).inc(told["completion_tokens"])


def event(data: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


class Events(StreamingResponse):
    """A stream of events; its job is cancelled when the client has left."""

    def __init__(self, engine: Engine, job: Job, chunks: AsyncGenerator[str, None]) -> None:
        super().__init__(chunks, headers={"Cache-Control": "no-cache"}, media_type="text/event-stream")
        self.engine, self.job, self.chunks = engine, job, chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.engine.cancel(self.job)
            await self.chunks.aclose()


async def until_gone(http: HttpRequest, work: Coroutine[Any, Any, Response]) -> Response:
    """What `work` gives, or nothing of use where the client leaves before."""

    async def gone() -> Response:
        while (await http.receive())["type"] != "http.disconnect":
            pass
        return Response(status_code=GONE)

    tasks = [asyncio.create_task(work), asyncio.create_task(gone())]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task in done).result()
    finally:
        for task in tasks:
            task.cancel()
