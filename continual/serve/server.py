"""`continual serve`: a run's models, behind HTTP, until a signal stops it."""

from __future__ import annotations

import ipaddress
import json
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from continual.decode import Decoder
from continual.errors import ContinualError
from continual.inference import Taught
from continual.route import BASE, FOLDER, load_router
from continual.serve.app import App
from continual.serve.engine import Engine
from continual.serve.generation import Generation, plain_text
from continual.serve.metrics import Metrics
from continual.serve.roster import Roster, proper

if TYPE_CHECKING:
    from rich.console import Console

LOOPBACK = ("localhost", "127.0.0.1", "::1")
HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*")
"""A name, an IPv4 address, or an IPv6 address without brackets."""


@dataclass(frozen=True)
class Settings:
    """How a run is served."""

    host: str = "127.0.0.1"
    port: int = 8000
    key: str | None = None
    """What clients must bring; None lets everybody in."""
    modules: tuple[str, ...] = ()
    """Further adapters, ``name=path`` or vLLM's JSON form."""
    allowed: tuple[Path, ...] = ()
    """Folders from which adapters may be loaded while it runs."""
    max_queue: int = 256
    """The most answers that wait."""
    max_rows: int = 64
    """The most answers that are written at once."""
    memory: int | None = None
    """Bytes that the adapters may take."""
    only: str | None = None
    """The whole model to be served, where the run's models are whole ones."""
    names: tuple[str, ...] = ()
    """Further names under which clients may address the server."""

    trust_remote_code: bool = False
    """Run Python code that comes with the model, whatever the run's recipe says."""

    @property
    def local(self) -> bool:
        """Whether nothing but this machine reaches the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def hosts(self) -> tuple[str, ...]:
        """The only values of a `Host` header that are answered; empty where a key guards the server instead."""
        if self.key is not None and not self.names:
            return ()
        return (*LOOPBACK, self.host.lower(), *(name.lower() for name in self.names))

    def check(self) -> None:
        """Raise a ContinualError where the settings would let in whoever comes."""
        if self.key is not None and not self.key.strip():
            raise ContinualError("--api-key: is empty, and would keep nobody out; give one, or leave the option out")
        if self.key is None and not self.names and not self.local:
            # Any page in a browser of that network could have its own name resolved to this address, and ask.
            raise ContinualError(
                f"--host {self.host}: other machines could use the server, and any web page through them; give "
                "--api-key, or --allowed-host with the name that clients use"
            )
        wrong = next((name for name in self.names if not HOST.fullmatch(name)), None)
        if wrong is not None:
            raise ContinualError(f"--allowed-host: '{wrong}' is not a host's name or address (no scheme, no port)")


def build(run_dir: Path, settings: Settings) -> App:
    """Load a run's models and put its server together.

    Raises:
        ContinualError: something cannot be loaded; the models are whole ones and none is named; or the settings
            let in whoever comes.
    """
    settings.check()
    known = Taught(run_dir, memory=settings.memory, trust_remote_code=settings.trust_remote_code)
    called = BASE
    chat, start = known.chat, known.recipe.start
    if known.whole:
        called = whole(known, settings)
        model, bank, source = known.model(called), None, str(known.models[called] or known.recipe.model_name_or_path)
    elif settings.only is not None:
        raise ContinualError(f"--model: the models of {run_dir} are adapters, and are all served")
    else:
        bank, source = known.bank, known.recipe.model_name_or_path
        model = bank.model
    metrics = Metrics()
    decoder = Decoder(
        model,
        chat.stop_ids,
        chat.end_id,
        known.recipe.evaluate.batch_tokens,
        max_rows=settings.max_rows,
        text=plain_text(chat),
        adapters=bank,
    )
    engine = Engine(decoder, settings.max_queue, metrics)
    roster = Roster(source, bank, called)
    if bank is not None:
        if start is not None:
            roster.put_under_base(Path(start))
        for name, folder in [*known.models.items(), *map(module, settings.modules)]:
            if folder is not None:
                roster.add(name, folder)
        if known.routed:
            roster.offer_auto(load_router(run_dir), run_dir / FOLDER)
    generation = Generation(engine, roster, chat, min(known.room, decoder.batch_tokens), metrics)
    return App(run_dir, generation, allowed=settings.allowed, key=settings.key, hosts=settings.hosts)


def whole(known: Taught, settings: Settings) -> str:
    """The name of the one model that is served of a run whose models are whole ones.

    Raises:
        ContinualError: none is named, or an unknown one; or adapters were to be served with it.
    """
    if settings.only is None:
        names = ", ".join(known.models)
        raise ContinualError(
            f"{known.run_dir}: its models are whole ones, of which only one can be served at a time: "
            f"name it with --model ({names})"
        )
    if settings.modules or settings.allowed:
        raise ContinualError(f"{known.run_dir}: no adapters can be served with a whole model")
    known.check(settings.only)
    return settings.only


def module(text: str) -> tuple[str, Path]:
    """A further adapter, from ``name=path`` or ``{"name": …, "path": …}``.

    Raises:
        ContinualError: it is neither.
    """
    if text.startswith("{"):
        try:
            told = json.loads(text)
            return proper(str(told["name"])), Path(told["path"])
        except (ValueError, KeyError) as error:
            raise ContinualError(f"--lora-modules: no name and path in {text}") from error
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise ContinualError(f"--lora-modules: NAME=PATH is expected, not '{text}'")
    return proper(name), Path(path)


class Server(uvicorn.Server):
    """Finishes what is in flight when a signal comes, and takes nothing new; a second signal ends it at once.

    Args:
        say: told where it listens, and that it is stopping.
    """

    def __init__(self, app: App, settings: Settings, say: Callable[[str], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app.gate, settings.host, settings.port, log_level="warning", lifespan="on", server_header=False
            )
        )
        self.app, self.gate, self.say = app, app.gate, say

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.say(f"{self.address} serves {', '.join(entry['id'] for entry in self.app.roster.entries())}")

    @property
    def address(self) -> str:
        """Where it listens."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.gate.stopping:
            self.should_exit = self.force_exit = True
            super().handle_exit(sig, frame)
        elif self.gate.active:
            self.say(f"stopping when {self.gate.active} requests are answered; a second signal ends them")
        self.gate.stopping = True

    async def on_tick(self, counter: int) -> bool:
        if self.gate.stopping and not self.gate.active:
            self.should_exit = True
        return await super().on_tick(counter)


def serve(run_dir: Path, settings: Settings, console: Console) -> None:
    """Serve a run until SIGTERM or Ctrl-C.

    Raises:
        ContinualError: something cannot be loaded.
    """

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    if settings.key is None and not settings.local:
        say("mind: without --api-key everyone who reaches this address can ask")
    Server(build(run_dir, settings), settings, say).run()
