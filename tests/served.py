"""A run with random adapters that nobody taught, and its server in a thread of the test."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import yaml
from fake_run import write_arm, write_run
from openai import OpenAI

from continual import inference, lora
from continual.model import load_model
from continual.serve import server
from continual.serve.app import App

TASKS = ("translate", "edit", "answer")
STRENGTH = 0.5


def adapter(folder: Path, seed: int, base: Any = None) -> Path:
    """A random adapter of the tiny model, strong enough to answer otherwise than the base."""
    draw = torch.Generator().manual_seed(seed)
    model = base or tiny.model()
    factors = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and "lm_head" not in name:
            a = torch.randn(2, module.in_features, generator=draw)
            factors[name] = lora.Factors(a, STRENGTH * torch.randn(module.out_features, 2, generator=draw))
    lora.save(lora.Lora("model", factors, "all-linear"), folder)
    return folder


def make_run(folder: Path, seeds: int = 1, architecture: str = "llama") -> Path:
    """A run with a specialist for each task, and the arm `rehearsal`."""
    run = write_run(folder / "run", {"rehearsal": "sequential", "apart": "specialists"}, TASKS, seeds=range(seeds))
    base = tiny.model(architecture)
    shake(base)
    base.save_pretrained(folder / "model")
    tiny.tokenizer(True).save_pretrained(folder / "model")
    told = yaml.safe_load((run / "recipe.yaml").read_text())
    told |= {"model_name_or_path": str(folder / "model"), "adapter": {"r": 2}, "output_dir": str(run)}
    told["training"] = {"num_train_epochs": 1, "learning_rate": 1e-3}
    (run / "recipe.yaml").write_text(yaml.safe_dump(told))
    scores = [[0.0] * 3, [0.5, 0, 0], [0.4, 0.5, 0], [0.4, 0.4, 0.5]]
    for seed in range(seeds):
        arm = write_arm(run, "rehearsal", scores, seed=seed)
        adapter(arm / "after/3", 100 + seed, base)
        apart = write_arm(run, "apart", [[0.0] * 3, [0.5] * 3], teach="specialists", seed=seed)
        for n, task in enumerate(TASKS):
            adapter(apart / "specialists" / task, 10 * seed + n, base)
    return run


def shake(model: torch.nn.Module) -> None:
    """Make a model's answers differ from prompt to prompt."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=draw))


class Running:
    """A server that runs in a thread."""

    def __init__(self, app: App, settings: server.Settings) -> None:
        self.app, self._ready = app, threading.Event()
        self.said: list[str] = []
        self.server = server.Server(app, settings, self._says)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        assert self._ready.wait(60)

    def _says(self, line: str) -> None:
        self.said.append(line)
        self._ready.set()

    @property
    def address(self) -> str:
        return self.said[0].split()[0]

    def client(self, key: str = "none", **options: Any) -> OpenAI:
        return OpenAI(base_url=f"{self.address}/v1", api_key=key, max_retries=0, timeout=120, **options)

    def stop(self) -> None:
        """As SIGTERM does."""
        self.server.handle_exit(signal.SIGTERM, None)

    def ended(self) -> bool:
        self.thread.join(60)
        return not self.thread.is_alive()


@contextlib.contextmanager
def running(run: Path, double: bool = False, **settings: Any) -> Iterator[Running]:
    """Serve a run on a free port until the end of the block.

    Args:
        double: in float64, where an answer does not depend on the batch at all.
    """
    chosen = server.Settings(port=0, **settings)
    with pytest.MonkeyPatch.context() as patch:
        if double:
            patch.setattr(inference, "load_model", lambda *a: load_model(*a).double())
        app = server.build(run, chosen)
    it = Running(app, chosen)
    try:
        yield it
    finally:
        it.stop()
        assert it.ended()
