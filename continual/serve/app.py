"""The routes, put together."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from continual import results
from continual.runs import read_json
from continual.serve.bodies import read
from continual.serve.errors import ApiError
from continual.serve.gate import Gate
from continual.serve.generation import Generation
from continual.serve.loading import Loading
from continual.serve.metrics import TYPE
from continual.serve.roster import Roster
from continual.serve.votes import Vote, Votes

PAGE = Path(__file__).parent / "page"


class App:
    """Everything that is served of one run.

    Args:
        run_dir: the run, for its results and votes.
        allowed: folders from which adapters may be loaded.
        key: of the API, if it needs one.
        hosts: see `Gate`.
    """

    def __init__(
        self,
        run_dir: Path,
        generation: Generation,
        *,
        allowed: Sequence[Path] = (),
        key: str | None = None,
        hosts: Sequence[str] = (),
    ) -> None:
        self.run_dir, self.generation = run_dir, generation
        self.engine, self.metrics, self.votes = generation.engine, generation.metrics, Votes(run_dir)
        loading = Loading(generation.roster, allowed)
        routes = [
            Route("/health", self.health),
            Route("/metrics", self.show_metrics),
            Route("/v1/models", self.models),
            Route("/v1/models/{name:path}", self.model),
            Route("/v1/chat/completions", generation.chat_route, methods=["POST"]),
            Route("/v1/completions", generation.completion_route, methods=["POST"]),
            Route("/v1/load_lora_adapter", loading.load, methods=["POST"]),
            Route("/v1/unload_lora_adapter", loading.unload, methods=["POST"]),
            Route("/api/run", self.run),
            Route("/api/votes", self.vote, methods=["POST"]),
            Route("/api/votes", self.show_votes),
            Mount("/", StaticFiles(directory=PAGE, html=True)),
        ]
        told = {ApiError: _told, HTTPException: _told_by_starlette, Exception: _failed}
        starlette = Starlette(routes=routes, exception_handlers=told, lifespan=self._life)  # type: ignore[arg-type]
        self.gate = Gate(starlette, self.metrics, key, hosts)

    @property
    def roster(self) -> Roster:
        return self.generation.roster

    @asynccontextmanager
    async def _life(self, app: Starlette) -> AsyncIterator[None]:
        self.engine.start()
        yield
        await self.engine.stop()
        self.generation.close()

    async def health(self, http: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def show_metrics(self, http: Request) -> Response:
        return Response(self.metrics.page(), media_type=TYPE)

    async def models(self, http: Request) -> Response:
        return JSONResponse({"object": "list", "data": self.roster.entries()})

    async def model(self, http: Request) -> Response:
        return JSONResponse(self.roster.find(http.path_params["name"]).entry)

    async def run(self, http: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(describe, self.run_dir, self.roster.called))

    async def show_votes(self, http: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(self.votes.results))

    async def vote(self, http: Request) -> Response:
        vote = await read(http, Vote)
        for name in (vote.a, vote.b):
            self.roster.find(name)
        return JSONResponse(await asyncio.to_thread(self.votes.add, vote), 201)


def describe(run_dir: Path, base: str) -> dict[str, Any]:
    """What a page shows of a run: its tasks, and R of every arm.

    Args:
        base: what the base model is called.
    """
    file = run_dir / results.FILE
    told = read_json(file) if file.exists() else results.collect(run_dir)
    arms = {
        arm: {
            "teach": entry["teach"],
            "runs": [
                {key: run[key] for key in ("run", "seed", "set", "order", "steps", "R", "ci")} for run in entry["runs"]
            ],
        }
        for arm, entry in told["arms"].items()
    }
    return {
        "name": told["name"],
        "base": base,
        "model": told["model"],
        "tasks": told["tasks"],
        "arms": arms,
        "examples": _examples(run_dir, told["tasks"]),
    }


def _examples(run_dir: Path, tasks: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """A test prompt of each task that some model of the run was examined on, as messages, to begin with."""
    found = {}
    for task in tasks:
        for file in sorted(run_dir.glob(f"arms/*/*/predictions/*-{task}.jsonl"))[:1]:
            with open(file, encoding="utf-8") as lines:
                prompts = (json.loads(line)["prompt"] for line in lines)
                example = next((prompt for prompt in prompts if _can_be_sent(prompt)), None)
            if example is not None:
                found[task] = [{"role": "user", "content": example}] if isinstance(example, str) else example
    return found


def _can_be_sent(prompt: str | list[dict[str, Any]]) -> bool:
    """Whether a prompt of an exam is a text, or a conversation without tools, which the page does not show."""
    if isinstance(prompt, str):
        return True
    return all(set(message) == {"role", "content"} and message["role"] != "tool" for message in prompt)


async def _told(http: Request, error: ApiError) -> Response:
    return error.response()


async def _failed(http: Request, error: Exception) -> Response:
    return ApiError(500, "the server failed; see its log").response()  # where the error itself is written


async def _told_by_starlette(http: Request, error: HTTPException) -> Response:
    response = ApiError(error.status_code, f"{http.method} {http.url.path}: {error.detail.lower()}").response()
    response.headers.update(error.headers or {})
    return response
