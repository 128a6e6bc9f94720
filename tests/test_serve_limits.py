"""What is too large is refused before anybody works on it, and the server answers others meanwhile."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import httpx
import pytest
import served

from continual.serve import app, bodies, generation, loading
from continual.serve.bodies import Bounded

TURNS = [{"role": ("user", "assistant")[n % 2], "content": ""} for n in range(100_001)]
CHAT: dict[str, Any] = {"model": "base", "messages": [{"role": "user", "content": "a"}]}
LOAD = {"lora_name": "x", "lora_path": "x"}
VOTE = {"a": "base", "b": "edit", "winner": "a"}
KEYS = {f"k{n}": "" for n in range(300_000)}
LARGE = {
    "many prompts": ("/v1/completions", {"model": "base", "prompt": ["a"] * 100_000}),
    "as many prompts as may be": ("/v1/completions", {"model": "base", "prompt": ["a " * 4000] * 1000}),
    "a long prompt": ("/v1/completions", {"model": "base", "prompt": "a " * 2**21}),
    "many ids": ("/v1/completions", {"model": "base", "prompt": [1] * 2_000_000}),
    "many lists of ids": ("/v1/completions", {"model": "base", "prompt": [[1]] * 1_000_000}),
    "mixed prompts": ("/v1/completions", {"model": "base", "prompt": [1, *["a"] * 500_000]}),
    "many turns": ("/v1/chat/completions", {"model": "base", "messages": TURNS}),
    "a long turn": ("/v1/chat/completions", CHAT | {"messages": [{"role": "user", "content": "a " * 2**21}]}),
    "many parts": (
        "/v1/chat/completions",
        CHAT | {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * 200_000}]},
    ),
    "wrong parts": ("/v1/chat/completions", CHAT | {"messages": [{"role": "user", "content": [1] * 1_000_000}]}),
    "wrong turns": ("/v1/chat/completions", CHAT | {"messages": [1] * 1_000_000}),
    "many stops": ("/v1/chat/completions", CHAT | {"stop": ["a"] * 500_000}),
    "many adapters": ("/v1/chat/completions", CHAT | {"lora": [{"id": "edit"}] * 300_000}),
    "a long name": ("/v1/chat/completions", CHAT | {"model": "a" * 2**22}),
    "many keys": ("/v1/chat/completions", CHAT | KEYS),
    "many keys below": ("/v1/chat/completions", CHAT | {"merged_adapters": KEYS}),
    "a vote with many keys": ("/api/votes", VOTE | KEYS),
    "a vote with many answers": ("/api/votes", VOTE | {"answers": KEYS}),
    "a vote with a long answer": ("/api/votes", VOTE | {"answers": {"a": "a" * 2**22}}),
    "a vote on much": ("/api/votes", VOTE | {"prompt": [{"role": "user", "content": "a" * 250_000}]}),
    "a long path": ("/v1/load_lora_adapter", LOAD | {"lora_path": "../" * 300_000}),
    "a long adapter's name": ("/v1/unload_lora_adapter", {"lora_name": "a" * 2**22}),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return served.make_run(tmp_path_factory.mktemp("limits"))


@pytest.fixture(scope="module")
def api(run: Path) -> Iterator[served.Running]:
    with served.running(run, allowed=(run.parent,)) as it:
        yield it


@pytest.mark.parametrize("what", LARGE)
def test_what_is_too_large_is_refused_without_work(api: served.Running, what: str) -> None:
    path, body = LARGE[what]
    content, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
    began = time.process_time()  # of all threads, the server's too; waiting for a busy processor is not in it
    reply = httpx.post(api.address + path, content=content, headers=headers, timeout=60)
    spent = time.process_time() - began
    assert reply.status_code in (400, 413), reply.text[:200]
    error = reply.json()["error"]
    assert error["type"] == "invalid_request_error" and 0 < len(error["message"]) < 3000
    assert spent < 1, f"{spent:.2f} CPU seconds"


def test_an_endless_body_is_cut_off(api: served.Running) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b" " * 2**20

    try:
        status = httpx.post(
            f"{api.address}/api/votes",
            content=endless(),
            headers={"Content-Type": "application/json"},
            timeout=60,
        ).status_code
    except httpx.TransportError:  # the server has hung up before the client looked for a reply
        status = 413
    assert status == 413


def test_others_are_answered_while_a_prompt_is_read(api: served.Running, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, release = threading.Event(), threading.Event()
    chat = api.app.generation.chat
    ids = chat.prompt_ids

    def slowly(*given: Any) -> list[int]:
        reading.set()
        assert release.wait(30)
        return ids(*given)

    monkeypatch.setattr(chat, "prompt_ids", slowly)
    replies: list[httpx.Response] = []
    url = f"{api.address}/v1/chat/completions"
    asking = threading.Thread(
        target=lambda: replies.append(httpx.post(url, json=CHAT | {"max_tokens": 2}, timeout=60))
    )
    asking.start()
    try:
        assert reading.wait(30)
        assert httpx.get(f"{api.address}/health", timeout=10).status_code == 200
        assert httpx.get(f"{api.address}/api/votes", timeout=10).status_code == 200
    finally:
        release.set()
        asking.join()
    assert replies[0].status_code == 200


def types_of_bodies() -> list[type[Bounded]]:
    """Every class of objects that a body may consist of."""
    found, waiting = [], [Bounded]
    while waiting:
        kind = waiting.pop()
        found.append(kind)
        waiting += kind.__subclasses__()
    return found


def unbounded(schema: Any, place: str) -> Iterator[str]:
    """The places of a JSON schema where a body may be as large as it likes."""
    if isinstance(schema, list):
        for n, entry in enumerate(schema):
            yield from unbounded(entry, f"{place}[{n}]")
    if not isinstance(schema, dict):
        return
    kind = schema.get("type")
    if kind == "string" and not {"maxLength", "enum", "const"} & set(schema):
        yield f"{place}: a text"
    if kind == "array" and "maxItems" not in schema:
        yield f"{place}: a list"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        yield f"{place}: an object with any keys"
    if not schema or ("title" in schema and len(schema) == 1):
        yield f"{place}: anything"
    for key in ("anyOf", "oneOf", "allOf", "items", "prefixItems"):
        if key in schema:
            yield from unbounded(schema[key], f"{place}.{key}")
    for key in ("properties", "$defs"):
        for name, entry in schema.get(key, {}).items():
            yield from unbounded(entry, f"{place}.{name}")


@pytest.mark.parametrize("kind", types_of_bodies(), ids=lambda kind: kind.__name__)
def test_every_text_and_list_of_a_body_has_a_limit(kind: type[Bounded]) -> None:
    schema = kind.model_json_schema()
    assert list(unbounded(schema, kind.__name__)) == []
    names = {kind.__name__ for kind in types_of_bodies()}
    assert set(schema.get("$defs", {})) <= names  # objects of other classes would take any number of keys


def test_every_route_reads_its_body_with_limits() -> None:
    assert bodies.Kind.__bound__ is Bounded
    assert get_type_hints(bodies.read)["kind"] == type[bodies.Kind]
    for module in (app, generation, loading):
        text = Path(module.__file__).read_text(encoding="utf-8")
        assert ".json()" not in text and ".body()" not in text and ".form()" not in text


def test_an_error_names_the_first_mistakes_and_counts_the_rest(api: served.Running) -> None:
    wrong = {key: "no" for key in ("temperature", "top_p", "top_k", "min_p", "seed", "n", "max_tokens")}
    wrong |= {"logprobs": "?", "top_logprobs": "no", "stream": "?", "messages": "no", "model": 1}
    reply = httpx.post(f"{api.address}/v1/chat/completions", json=wrong)
    message = reply.json()["error"]["message"]
    assert reply.status_code == 400 and message.endswith("; and 2 more") and message.count(": ") >= 10
