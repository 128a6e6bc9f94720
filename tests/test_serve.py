"""The HTTP API, asked by OpenAI's own client."""

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import served

from continual.decode import Decoder
from continual.errors import ContinualError
from continual.inference import Taught
from continual.route import BASE
from continual.sample import Message
from continual.serve.bodies import ChatMessage

NAMES = [BASE, "translate", "edit", "answer", "rehearsal"]
HELLO: Any = [{"role": "user", "content": "say what colour the dog is"}]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return served.make_run(tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="module")
def api(run: Path) -> Iterator[served.Running]:
    with served.running(run, double=True, allowed=(run.parent,)) as it:
        yield it


def chat(api: served.Running, model: str = BASE, **more: Any) -> Any:
    asked = {"messages": HELLO, "temperature": 0, "max_tokens": 12, **more}
    return api.client().chat.completions.create(model=model, **asked)


def words(api: served.Running, model: str = BASE, **more: Any) -> str:
    return chat(api, model, **more).choices[0].message.content


def post(api: served.Running, path: str, body: Any, **headers: str) -> httpx.Response:
    return httpx.post(api.address + path, json=body, headers=headers, timeout=60)


def metric(api: served.Running, name: str) -> float:
    lines = httpx.get(f"{api.address}/metrics").text.splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(f"{name} ")), 0.0)


def test_every_model_is_listed_with_root_and_parent(api: served.Running, run: Path) -> None:
    listed = {model.id: model for model in api.client().models.list()}
    assert set(NAMES) <= set(listed)
    assert listed[BASE].parent is None and listed[BASE].root == str(run.parent / "model")
    assert listed["edit"].parent == BASE and listed["edit"].root.endswith("specialists/edit")
    assert api.client().models.retrieve("edit") == listed["edit"]


def test_each_model_answers_under_its_own_name_as_peft_would(api: served.Running, run: Path) -> None:
    said = {name: words(api, name) for name in NAMES}
    assert len(set(said.values())) == len(NAMES)
    known = Taught(run)
    for name in NAMES:
        prompt = known.chat.prompt_ids([Message("user", HELLO[0]["content"])], 100)
        ids = Decoder(known.model(name).double(), known.chat.stop_ids, 0).generate([prompt], 12)[0].ids
        assert said[name] == known.chat.answer_text(ids)


def test_the_base_may_stand_before_a_name(api: served.Running, run: Path) -> None:
    assert words(api, f"{BASE}:edit") == words(api, f"{run.parent / 'model'}:edit") == words(api, "edit")
    assert words(api, str(run.parent / "model")) == words(api, BASE)
    assert words(api, "edit/seed0") == words(api, "edit")


@pytest.mark.parametrize("name", ["edti", "base:edti", "other:edit", "", "base:base:edit"])
def test_an_unknown_model_is_never_the_base(api: served.Running, name: str) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no model") as told:
        words(api, name)
    assert told.value.code == "model_not_found"


def test_a_stream_says_the_same_bit_by_bit_with_usage_at_its_end(api: served.Running) -> None:
    whole = chat(api, "edit", n=3, temperature=1, seed=1)
    chunks = list(chat(api, "edit", n=3, temperature=1, seed=1, stream=True, stream_options={"include_usage": True}))
    said = ["", "", ""]
    reasons: dict[int, str] = {}
    for chunk in chunks[:-1]:
        assert chunk.usage is None
        for choice in chunk.choices:
            said[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    assert said == [choice.message.content for choice in whole.choices]
    assert [reasons[n] for n in range(3)] == [choice.finish_reason for choice in whole.choices]
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1 and len(chunks) > 10
    assert [chunk.choices[0].delta.role for chunk in chunks[:4]] == ["assistant"] * 3 + [None]
    assert all(chunk.usage is None for chunk in chat(api, stream=True))


def test_usage_counts_tokens(api: served.Running) -> None:
    reply = api.client().completions.create(model=BASE, prompt=[5, 6, 7], max_tokens=9, temperature=0)
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (3, 9, 12)
    assert reply.choices[0].finish_reason == "length"


def test_a_seed_repeats_an_answer_and_another_one_does_not(api: served.Running) -> None:
    draws = [words(api, temperature=1.0, seed=seed, max_tokens=20) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    free = {words(api, temperature=1.0, max_tokens=20) for _ in range(3)}
    assert len(free) > 1
    together = chat(api, temperature=1.0, seed=1, max_tokens=20, n=4).choices
    assert len({choice.message.content for choice in together}) == 4
    assert together[0].message.content == draws[0]


def test_sampling_is_as_asked(api: served.Running) -> None:
    greedy = words(api)
    assert words(api, temperature=1.0, top_p=1e-6) == greedy
    assert words(api, temperature=1.0, extra_body={"top_k": 1}) == greedy
    assert words(api, temperature=1.0, extra_body={"min_p": 1.0}) == greedy
    assert words(api, extra_body={"repetition_penalty": 5.0}) != greedy
    assert words(api, temperature=None, seed=1) == words(api, temperature=1.0, seed=1) != greedy
    assert len(chat(api, max_tokens=None, max_completion_tokens=3, logprobs=True).choices[0].logprobs.content) == 3


def test_a_stop_text_ends_an_answer_and_is_no_part_of_it(api: served.Running) -> None:
    whole = (
        api.client().completions.create(model="edit", prompt="the dog", max_tokens=30, temperature=0).choices[0].text
    )
    at = next(
        n for n in range(6, len(whole) - 3) if "\ufffd" not in whole[n : n + 2] and whole.find(whole[n : n + 2]) == n
    )
    asked: Any = {"model": "edit", "prompt": "the dog", "max_tokens": 30, "temperature": 0, "logprobs": 0}
    stop = ["never there", whole[at : at + 2]]
    choice = api.client().completions.create(**asked, stop=stop).choices[0]
    assert choice.text == whole[:at] and choice.finish_reason == "stop"
    assert all(offset < at for offset in choice.logprobs.text_offset)
    said = ""
    for chunk in api.client().completions.create(**asked, stop=stop, stream=True):
        said += chunk.choices[0].text
        assert whole[:at].startswith(said)
    assert said == whole[:at]


def test_likelihoods_are_told_with_each_token(api: served.Running) -> None:
    plain = chat(api, "edit", logprobs=True, top_logprobs=2)
    entries = plain.choices[0].logprobs.content
    assert len(entries) == plain.usage.completion_tokens == 12
    for entry in entries:
        assert entry.token == entry.top_logprobs[0].token and entry.logprob == entry.top_logprobs[0].logprob
        assert len(entry.top_logprobs) == 2 and entry.top_logprobs[1].logprob <= entry.logprob < 0
        assert entry.bytes is None or bytes(entry.bytes).decode() == entry.token
    streamed = [
        entry
        for chunk in chat(api, "edit", logprobs=True, top_logprobs=2, stream=True)
        for entry in (chunk.choices[0].logprobs.content if chunk.choices[0].logprobs else [])
    ]
    assert [entry.token for entry in streamed] == [entry.token for entry in entries]
    assert chat(api).choices[0].logprobs is None
    old = api.client().completions.create(model=BASE, prompt="a dog", max_tokens=5, temperature=0, logprobs=3)
    told = old.choices[0].logprobs
    assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == len(told.text_offset) == 5
    for token, logprob, top in zip(told.tokens, told.token_logprobs, told.top_logprobs, strict=True):
        assert top[token] == logprob == max(top.values())


def test_a_completion_takes_texts_and_ids_one_or_many(api: served.Running) -> None:
    complete = api.client().completions.create
    tokenizer = api.app.generation.chat.tokenizer
    texts = ["a dog", "the cat sees"]
    ids = [tokenizer(text).input_ids for text in texts]
    asked: Any = {"model": "answer", "max_tokens": 8, "temperature": 0}
    alone = [complete(prompt=text, **asked).choices[0].text for text in texts]
    assert [choice.text for choice in complete(prompt=texts, **asked).choices] == alone
    assert [choice.text for choice in complete(prompt=ids, **asked).choices] == alone
    assert complete(prompt=ids[1], **asked).choices[0].text == alone[1]
    twice = complete(prompt=texts, n=2, **asked).choices
    assert [choice.index for choice in twice] == [0, 1, 2, 3]
    assert [choice.text for choice in twice] == [alone[0]] * 2 + [alone[1]] * 2


def test_adapters_are_mixed_by_weight_in_both_known_shapes(api: served.Running) -> None:
    def mixed(**body: Any) -> str:
        return words(api, extra_body=body)

    lorax = mixed(merged_adapters={"ids": ["edit", "answer"], "weights": [0.5, 0.25]})
    llama = mixed(lora=[{"id": "answer", "scale": 0.25}, {"id": "edit", "scale": 0.5}])
    assert lorax == llama
    assert lorax not in {words(api, name) for name in NAMES}
    assert mixed(lora=[{"id": "edit"}]) == words(api, "edit")
    assert mixed(lora=[{"id": "edit", "scale": 0.5}, {"id": "edit", "scale": 0.5}]) == words(api, "edit")
    assert mixed(lora=[]) == mixed(lora=[{"id": "edit", "scale": 0}]) == words(api, BASE)


@pytest.mark.parametrize(
    ("model", "body", "error"),
    [
        (BASE, {"lora": [{"id": "edti"}]}, "no model 'edti'; did you mean 'edit'"),
        ("edit", {"lora": [{"id": "edit"}]}, "need the base as model"),
        (BASE, {"lora": [{"id": "base"}]}, "'base' is no adapter"),
        (BASE, {"lora": [], "merged_adapters": {"ids": ["edit"], "weights": [1]}}, "one of them"),
        (BASE, {"merged_adapters": {"ids": ["edit"], "weights": []}}, "equally many"),
        (BASE, {"merged_adapters": {"ids": ["edit"], "weights": [1], "merge_strategy": "ties"}}, "merge_strategy"),
        (BASE, {"merged_adapters": {"ids": ["edit"], "weights": [1], "density": 0.2}}, "density"),
    ],
)
def test_a_mix_that_cannot_be_is_refused(api: served.Running, model: str, body: Any, error: str) -> None:
    with pytest.raises((openai.BadRequestError, openai.NotFoundError), match=error):
        words(api, model, extra_body=body)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"messages": []}, "messages: List should have at least 1"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "a user last"),
        ({"stop": ["a"] * 17}, "stop.*at most 16"),
        ({"messages": [*HELLO, *HELLO]}, "in turn"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "content"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": 3, "top_p": 0}, "temperature: .*; top_p: "),
        ({"n": 0}, "n: "),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": [""]}, "must not be empty"),
        ({"top_logprobs": 2}, "needs logprobs"),
        ({"extra_body": {"tools": [{"type": "function"}]}}, "'tools' is not supported"),
        ({"frequency_penalty": 0.5}, "'frequency_penalty' is not supported"),
        ({"response_format": {"type": "json_object"}}, "'response_format' is not supported"),
    ],
)
def test_what_is_malformed_or_not_done_is_refused_with_the_key(api: served.Running, changes: Any, error: str) -> None:
    with pytest.raises(openai.BadRequestError, match=error) as told:
        chat(api, **changes)
    assert told.value.type == "invalid_request_error"


def test_what_changes_nothing_may_be_sent(api: served.Running) -> None:
    harmless = {
        "frequency_penalty": 0,
        "tools": None,
        "response_format": {"type": "text"},
        "user": "me",
        "store": False,
    }
    assert words(api, **harmless) == words(api)
    parts = [{"role": "user", "content": [{"type": "text", "text": HELLO[0]["content"]}]}]
    assert words(api, messages=parts) == words(api)
    system = [{"role": role, "content": "be good"} for role in ("system", "developer")]
    assert words(api, messages=[system[0], *HELLO]) == words(api, messages=[system[1], *HELLO]) != words(api)


def test_tool_turns_are_read_and_a_template_that_drops_calls_is_refused(api: served.Running) -> None:
    function = {"name": "add", "arguments": '{"a": 2}'}
    call = {"id": "1", "type": "function", "function": function}
    calls = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "content": "blue", "tool_call_id": "1"}
    read = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
    turns = [ChatMessage.model_validate(turn).message for turn in (calls, result)]
    assert turns == [Message("assistant", "", (read,)), Message("tool", "blue")]
    with pytest.raises(openai.BadRequestError, match="the chat template leaves out the function 'add'"):
        chat(api, messages=[*HELLO, calls, result])
    for wrong, error in (
        ([*HELLO, result], "tools answer an assistant's calls"),
        ([*HELLO, calls | {"tool_calls": []}, result], "content: a text is expected"),
        ([{**HELLO[0], "tool_calls": calls["tool_calls"]}], "only an assistant calls tools"),
        ([*HELLO, {**calls, "tool_calls": [{"function": function | {"arguments": "{"}}]}, result], "arguments"),
        ([*HELLO, {**calls, "tool_calls": [{"function": function | {"arguments": "[]"}}]}, result], "a JSON object"),
    ):
        with pytest.raises(openai.BadRequestError, match=error):
            chat(api, messages=wrong)


def test_a_turn_that_the_form_has_no_place_for_is_refused(
    api: served.Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: Any) -> Any:
        raise ContinualError("the template has no system role")

    monkeypatch.setattr(api.app.generation.chat, "prompt_ids", refuse)
    with pytest.raises(openai.BadRequestError, match="the template has no system role") as told:
        words(api)
    assert told.value.param == "messages"


def test_bodies_that_are_no_json_are_refused(api: served.Running) -> None:
    url, right = f"{api.address}/v1/chat/completions", {"Content-Type": "application/json"}
    assert httpx.post(url, content=b"{", headers=right).status_code == 400
    assert httpx.post(url, content=b"[]", headers=right).json()["error"]["message"] == "a JSON object is expected"
    assert httpx.post(url, content=b"[" * 100_000, headers=right).status_code == 400
    for half in (rb'{"model": "\ud800"}', rb'{"model": "base", "messages": [{"role": "user", "content": "\udfff"}]}'):
        assert httpx.post(url, content=half, headers=right).status_code == 400
    assert httpx.post(url, content=b"\xff", headers=right).status_code == 400
    assert httpx.post(url, content=b" " * (9 * 2**20), headers=right).status_code == 413
    # Another site's page may make a browser send this without asking.
    assert httpx.post(url, content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 415
    assert httpx.post(f"{api.address}/api/run").status_code == 405
    assert httpx.get(f"{api.address}/v1/nothing").json()["error"]["message"] == "GET /v1/nothing: not found"


def test_what_is_too_long_is_refused_and_never_cut(api: served.Running) -> None:
    long: Any = [{"role": "user", "content": "dog " * 200}]
    with pytest.raises(openai.BadRequestError, match="room for 128 tokens") as told:
        words(api, messages=long)
    assert told.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="room for 128 tokens"):
        words(api, max_tokens=1000)
    reply = chat(api, max_tokens=None)  # what nobody asked for is what there is room for
    assert reply.usage.total_tokens <= 128
    for ids in ([5, 300], [-1], [2**40]):
        with pytest.raises(openai.BadRequestError, match="between 0 and 299"):
            api.client().completions.create(model=BASE, prompt=ids)
    with pytest.raises(openai.BadRequestError, match="empty"):
        api.client().completions.create(model=BASE, prompt="")


def test_adapters_come_and_go_while_it_runs(api: served.Running, run: Path) -> None:
    served.adapter(run.parent / "new", 77)
    body = {"lora_name": "new", "lora_path": "new"}
    assert post(api, "/v1/load_lora_adapter", body).text == "Success: LoRA adapter 'new' added successfully."
    listed = {model.id: model for model in api.client().models.list()}
    assert listed["new"].root == str(run.parent / "new") and listed["new"].parent == BASE
    first = words(api, "new")
    assert first not in {words(api, name) for name in NAMES}
    assert post(api, "/v1/load_lora_adapter", body).status_code == 400
    served.adapter(run.parent / "new", 78)
    assert post(api, "/v1/load_lora_adapter", body | {"load_inplace": True}).status_code == 200
    second = words(api, "new")
    assert second != first
    assert post(api, "/v1/unload_lora_adapter", {"lora_name": "new"}).status_code == 200
    with pytest.raises(openai.NotFoundError):
        words(api, "new")
    assert post(api, "/v1/unload_lora_adapter", {"lora_name": "new"}).status_code == 404
    # Nothing computed with the older one of that name may be taken for this one's.
    served.adapter(run.parent / "new", 77)
    assert post(api, "/v1/load_lora_adapter", body).status_code == 200
    assert words(api, "new") == first
    post(api, "/v1/unload_lora_adapter", {"lora_name": "new"})


def test_an_answer_ends_with_the_adapter_that_it_began_with(api: served.Running, run: Path) -> None:
    served.adapter(run.parent / "brief", 79)
    post(api, "/v1/load_lora_adapter", {"lora_name": "brief", "lora_path": "brief"})
    expected = words(api, "brief", max_tokens=100)
    chunks = chat(api, "brief", max_tokens=100, stream=True)
    said = next(chunks).choices[0].delta.content
    assert post(api, "/v1/unload_lora_adapter", {"lora_name": "brief"}).status_code == 200
    assert said + "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected


def test_adapters_are_loaded_only_from_allowed_folders(api: served.Running, run: Path, tmp_path: Path) -> None:
    outside = served.adapter(tmp_path / "outside", 5)
    (run.parent / "link").symlink_to(outside)
    half = run.parent / "half"
    half.mkdir()
    shutil.copy(outside / "adapter_config.json", half)
    (half / "adapter_model.safetensors").symlink_to(outside / "adapter_model.safetensors")
    for path in (str(outside), "link", "half", f"../{tmp_path.name}/outside", "/etc", "../../../../etc/passwd"):
        reply = post(api, "/v1/load_lora_adapter", {"lora_name": "x", "lora_path": path})
        assert reply.status_code == 403, path
    assert post(api, "/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "a\0b"}).status_code == 400
    for path in ("nowhere", "model", "x" * 300):
        assert post(api, "/v1/load_lora_adapter", {"lora_name": "x", "lora_path": path}).status_code == 404, path
    inside = served.adapter(run.parent / "inside", 5)
    for name in ("base", "edit", "auto", "a:b", "", "edit/seed0", str(run.parent / "model")):
        body = {"lora_name": name, "lora_path": str(inside)}
        assert post(api, "/v1/load_lora_adapter", body).status_code == 400, name
    assert post(api, "/v1/unload_lora_adapter", {"lora_name": "base"}).status_code == 404
    (inside / "adapter_config.json").write_text("{}")
    reply = post(api, "/v1/load_lora_adapter", {"lora_name": "x", "lora_path": str(inside)})
    assert reply.status_code == 400 and "peft_type" in reply.json()["error"]["message"]


@pytest.mark.parametrize("config", ["[1]", '"x"', "{}", '{"peft_type": "LORA"}', '{"peft_type": "LORA", "r": 0}', "{"])
def test_an_adapter_that_is_damaged_is_refused_with_the_reason(api: served.Running, run: Path, config: str) -> None:
    folder = served.adapter(run.parent / "damaged", 5)
    (folder / "adapter_config.json").write_text(config)
    reply = post(api, "/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "damaged"})
    assert reply.status_code == 400 and str(folder) in reply.json()["error"]["message"]


def test_a_client_that_leaves_takes_its_rows_with_it(api: served.Running) -> None:
    decoder = api.app.engine.decoder
    steps = decoder.step
    slow = threading.Event()

    def step() -> Any:
        time.sleep(0.05)
        slow.set()
        return steps()

    decoder.step = step
    # What is drawn may end after a few tokens; the likeliest ones go on.
    url, body = f"{api.address}/v1/completions", {"model": BASE, "prompt": "a", "max_tokens": 120, "temperature": 0}
    try:
        with httpx.stream("POST", url, json={**body, "stream": True}) as reply:
            next(reply.iter_lines())
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url, json=body, timeout=0.5)
        assert slow.is_set()
        deadline = time.monotonic() + 4  # 120 steps take 6 seconds
        while (decoder.busy or api.app.engine.in_flight) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not decoder.busy and api.app.engine.in_flight == 0 and api.app.gate.active == 0
    finally:
        decoder.step = steps
    assert words(api) == words(api)


def test_a_batch_that_fails_is_told_to_all_and_the_next_one_works(
    api: served.Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = words(api)
    monkeypatch.setattr(api.app.engine.decoder, "_forward", lambda *a: 1 / 0)
    with pytest.raises(openai.InternalServerError, match="see the server's log"):
        words(api)
    with pytest.raises(openai.APIError, match="see the server's log"):
        list(chat(api, stream=True))
    monkeypatch.undo()
    assert words(api) == expected
    assert api.app.engine.in_flight == 0


def test_metrics_count_requests_and_tokens(api: served.Running) -> None:
    ok, missing = (
        'continual_requests_total{model="answer",status="200"}',
        'continual_requests_total{model="unknown",status="404"}',
    )
    before = {name: metric(api, name) for name in (ok, missing)}
    tokens = metric(api, 'continual_generated_tokens_total{model="answer"}')
    chat(api, "answer")
    list(chat(api, "answer", stream=True))
    with pytest.raises(openai.NotFoundError):
        chat(api, "nobody")
    assert metric(api, ok) == before[ok] + 2 and metric(api, missing) == before[missing] + 1
    assert metric(api, 'continual_generated_tokens_total{model="answer"}') == tokens + 24
    assert metric(api, 'continual_time_to_first_token_seconds_count{model="answer"}') >= 2
    assert metric(api, "continual_batch_rows_count") > 24 and metric(api, "continual_queue_length") == 0
