"""`continual serve`: a run's models, behind HTTP, until a signal stops it."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from continual.chat import Chat
from continual.decode import Decoder
from continual.errors import ContinualError
from continual.lora import CONFIG
from continual.model import load_model, load_tokenizer, max_positions
from continual.problems import did_you_mean
from continual.route import FOLDER, SETTINGS, Router
from continual.serve.app import App
from continual.serve.bank import AdapterBank
from continual.serve.engine import Engine
from continual.serve.gate import Gate
from continual.serve.generation import Generation, plain_text
from continual.serve.metrics import Metrics
from continual.serve.roster import BASE, Roster
from continual.talk import run_recipe, taught

if TYPE_CHECKING:
    from rich.console import Console

LOOPBACK = ("localhost", "127.0.0.1", "::1")


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


def build(run_dir: Path, settings: Settings) -> App:
    """Load a run's models and put its server together.

    Raises:
        ContinualError: something cannot be loaded; or the models are whole ones and none is named.
    """
    recipe, models = run_recipe(run_dir), taught(run_dir)
    adapters = {name: path for name, path in models.items() if path is not None and (path / CONFIG).is_file()}
    whole = {name: path for name, path in models.items() if path is not None and name not in adapters}
    name, trusted, called = recipe.model_name_or_path, recipe.trust_remote_code, BASE
    source = name
    if settings.only is not None:
        if settings.only not in whole:
            hint = did_you_mean(settings.only, whole)
            raise ContinualError(f"--model: '{settings.only}' is no whole model of this run{hint}")
        source, called, adapters = str(whole[settings.only]), settings.only, {}
    elif whole and not adapters:
        known = ", ".join(whole)
        raise ContinualError(
            f"{run_dir}: its models are whole ones, which cannot be served together; name one: --model {{{known}}}"
        )
    chat = Chat(load_tokenizer(name, trusted), recipe.roles)
    model = load_model(source, recipe.weights_dtype, trusted)
    bank = AdapterBank(model, memory=settings.memory)
    metrics = Metrics()
    decoder = Decoder(
        model, chat.stop_ids, chat.end_id, max_rows=settings.max_rows, text=plain_text(chat), adapters=bank
    )
    engine = Engine(decoder, settings.max_queue, metrics)
    roster = Roster(source, bank, called)
    if recipe.start is not None and settings.only is None:
        roster.put_under_base(Path(recipe.start))
    for adapter, folder in adapters.items():
        roster.add(adapter, folder)
    for adapter, folder in map(module, settings.modules):
        roster.add(adapter, folder)
    if settings.only is None and (run_dir / FOLDER / SETTINGS).is_file():
        roster.offer_auto(Router.load(run_dir / FOLDER), run_dir / FOLDER)
    generation = Generation(engine, roster, chat, max_positions(name, trusted), metrics)
    open_to_all = settings.key is None and settings.host in LOOPBACK
    return App(
        run_dir,
        generation,
        allowed=settings.allowed,
        key=settings.key,
        hosts=LOOPBACK if open_to_all else (),
    )


def module(text: str) -> tuple[str, Path]:
    """A further adapter, from ``name=path`` or ``{"name": …, "path": …}``.

    Raises:
        ContinualError: it is neither.
    """
    if text.startswith("{"):
        try:
            told = json.loads(text)
            return str(told["name"]), Path(told["path"])
        except (ValueError, KeyError) as error:
            raise ContinualError(f"--lora-modules: no name and path in {text}") from error
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise ContinualError(f"--lora-modules: NAME=PATH is expected, not '{text}'")
    return name, Path(path)


class Server(uvicorn.Server):
    """Finishes what is in flight when a signal comes, and takes nothing new; a second signal ends it at once."""

    def __init__(self, config: uvicorn.Config, gate: Gate, ready: Callable[[str], None]) -> None:
        super().__init__(config)
        self.gate, self.ready = gate, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.ready(self.address)

    @property
    def address(self) -> str:
        """Where it listens."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.gate.stopping:
            self.should_exit = self.force_exit = True
        self.gate.stopping = True

    async def on_tick(self, counter: int) -> bool:
        if self.gate.stopping and not self.gate.active:
            self.should_exit = True
        return await super().on_tick(counter)


def server(app: App, settings: Settings, ready: Callable[[str], None]) -> Server:
    """The server of an app, not yet running.

    Args:
        ready: called with its address when it listens.
    """
    config = uvicorn.Config(
        app.gate, settings.host, settings.port, log_level="warning", lifespan="on", server_header=False
    )
    return Server(config, app.gate, ready)


def serve(run_dir: Path, settings: Settings, console: Console) -> None:
    """Serve a run until SIGTERM or Ctrl-C.

    Raises:
        ContinualError: something cannot be loaded.
    """
    app = build(run_dir, settings)
    names = ", ".join(entry["id"] for entry in app.roster.entries())

    def ready(address: str) -> None:
        console.print(f"{address} serves {names}", highlight=False, markup=False, soft_wrap=True)

    if settings.key is None and settings.host not in LOOPBACK:
        console.print("mind: without --api-key everyone who reaches this address can ask", highlight=False)
    server(app, settings, ready).run()
