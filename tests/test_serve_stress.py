"""Many clients at once: everybody gets the answer that they would get alone, and nobody another adapter's."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import served
from openai import OpenAI

import continual
from continual.route import BASE

ADAPTERS = [f"adapter{n}" for n in range(8)]
NAMES = [BASE, *ADAPTERS]
WORDS = "the a red blue dog cat sees likes big small say what colour is it good bad".split()
TOKENS = 24
ROOT = Path(continual.__file__).parent.parent

Ask = tuple[str, str]
"""A model and a prompt."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stress")
    for n, name in enumerate(ADAPTERS):
        served.adapter(folder / name, 200 + n)
    return served.make_run(folder)


def modules(run: Path) -> tuple[str, ...]:
    return tuple(f"{name}={run.parent / name}" for name in ADAPTERS)


def answer(client: OpenAI, ask: Ask, stream: bool = False) -> str:
    asked: Any = {"model": ask[0], "prompt": ask[1], "max_tokens": TOKENS, "temperature": 0}
    if stream:
        return "".join(chunk.choices[0].text for chunk in client.completions.create(**asked, stream=True))
    return client.completions.create(**asked).choices[0].text


def prompts(count: int) -> list[str]:
    """Half of them begin alike: what is computed for one adapter's must not be used for another's."""
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=draw.randrange(2, 12))) for _ in range(count)]
    return [f"the dog sees the cat and the cat sees the dog {text}" if n % 2 else text for n, text in enumerate(texts)]


def changes(api: served.Running, run: Path, over: threading.Event) -> int:
    """Load, replace and unload an adapter, over and over; the number of times."""
    made = 0
    while not over.is_set():
        for path, more in (("other0", {}), ("other1", {"load_inplace": True}), (None, {})):
            kind = "unload" if path is None else "load"
            body = {"lora_name": "other", **({} if path is None else {"lora_path": path}), **more}
            reply = httpx.post(f"{api.address}/v1/{kind}_lora_adapter", json=body, timeout=60)
            assert reply.status_code == 200, reply.text
            made += 1
    return made


def storm(api: served.Running, run: Path, requests: int, clients: int, texts: list[str]) -> Counter[str]:
    """Ask at random from many threads, while an adapter comes and goes.

    Returns:
        How many answers were right (as when asked alone), another adapter's, or otherwise wrong.
    """
    client = api.client()
    alone = {(name, text): answer(client, (name, text)) for text in texts for name in NAMES}
    for text in texts:
        assert len({alone[name, text] for name in NAMES}) == len(NAMES)
    others = [served.adapter(run.parent / f"other{n}", 300 + n) for n in range(2)]
    for n, folder in enumerate(others):
        body = {"lora_name": "other", "lora_path": str(folder), "load_inplace": n > 0}
        assert httpx.post(f"{api.address}/v1/load_lora_adapter", json=body).status_code == 200
        alone |= {(f"other{n}", text): answer(client, ("other", text)) for text in texts}
    httpx.post(f"{api.address}/v1/unload_lora_adapter", json={"lora_name": "other"})
    draw = random.Random(1)
    asks = [(draw.choice([*NAMES, "other"]), draw.choice(texts), draw.random() < 0.5) for _ in range(requests)]
    here = threading.local()

    def one(ask: tuple[str, str, bool]) -> str:
        name, text, stream = ask
        here.client = getattr(here, "client", None) or api.client()
        try:
            said = answer(here.client, (name, text), stream)
        except openai.NotFoundError:
            return "right" if name == "other" else "lost"
        known = {who for (who, asked), told in alone.items() if asked == text and told == said}
        expected = {"other0", "other1"} if name == "other" else {name}
        return "right" if known & expected else "another's" if known else "wrong"

    over = threading.Event()
    with ThreadPoolExecutor(clients + 1) as pool:
        changing = pool.submit(changes, api, run, over)
        told = Counter(pool.map(one, asks))
        over.set()
        assert changing.result() > 5
    return told


def serve(run: Path, double: bool, check: Callable[[served.Running], None]) -> None:
    with served.running(run, double=double, modules=modules(run), allowed=(run.parent,), max_queue=512) as api:
        check(api)
        assert api.app.engine.in_flight == 0 and not api.app.engine.decoder.busy


def test_many_clients_get_what_each_would_get_alone(run: Path) -> None:
    def check(api: served.Running) -> None:
        assert storm(api, run, 80, 8, prompts(3)) == {"right": 80}
        lines = httpx.get(f"{api.address}/metrics").text.splitlines()
        (steps, rows) = (
            float(next(line.split()[1] for line in lines if line.startswith(f"continual_batch_rows_{what} ")))
            for what in ("count", "sum")
        )
        assert rows / steps > 1.2  # they did share batches

    serve(run, True, check)


@pytest.mark.slow
@pytest.mark.parametrize("double", [True, False], ids=["float64", "float32"])
def test_500_requests_of_32_clients_over_8_adapters_and_the_base(run: Path, double: bool) -> None:
    def check(api: served.Running) -> None:
        told = storm(api, run, 500, 32, prompts(12))
        assert told["another's"] == told["lost"] == 0
        assert told["right"] >= (500 if double else 0.999 * 500), told

    serve(run, double, check)


def test_a_signal_ends_the_program_when_all_that_was_begun_is_written(run: Path) -> None:
    words = [sys.executable, "-m", "continual", "serve", str(run), "--port", "0", "--max-rows", "4"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]
        client = OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=120)
        asked: Any = {"messages": [{"role": "user", "content": "dog"}], "max_tokens": 100, "temperature": 0}
        alone = {name: client.chat.completions.create(model=name, **asked) for name in (BASE, *served.TASKS)}
        expected = {name: reply.choices[0] for name, reply in alone.items()}
        begun = threading.Barrier(25)
        ended = []

        def one(n: int) -> bool:
            name = list(expected)[n % 4]
            chunks = iter(client.chat.completions.create(model=name, stream=True, **asked))
            next(chunks)  # it was taken
            begun.wait(60)
            choices = [chunk.choices[0] for chunk in chunks]
            ended.append(time.monotonic())
            text = "".join(choice.delta.content or "" for choice in choices)
            return (text, choices[-1].finish_reason) == (expected[name].message.content, expected[name].finish_reason)

        with ThreadPoolExecutor(24) as pool:
            results = [pool.submit(one, n) for n in range(24)]
            begun.wait(60)
            process.send_signal(signal.SIGTERM)
            sent = time.monotonic()
            assert all(result.result() for result in results)
        assert max(ended) > sent  # or there was nothing left to write
        assert process.wait(30) == 0
        assert process.stderr is not None and process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()
