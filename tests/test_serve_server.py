"""How a server starts, is guarded, fills up and stops."""

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
import tiny
import yaml
from fake_run import write_arm
from test_serve import HELLO, chat, words

from continual import cli
from continual.errors import ContinualError
from continual.route import FOLDER, Router
from continual.serve import server
from continual.serve.server import Settings, build, module


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return served.make_run(tmp_path_factory.mktemp("server"), seeds=2)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every decoding step takes its time."""
    step = server.Decoder.step

    def slowly(self: Any) -> Any:
        time.sleep(0.03)
        return step(self)

    monkeypatch.setattr(server.Decoder, "step", slowly)
    yield


def in_threads(*calls: Any) -> list[Any]:
    """What each call gives, or raises, all begun at once."""
    results: list[Any] = [None] * len(calls)

    def one(n: int) -> None:
        try:
            results[n] = calls[n]()
        except Exception as error:
            results[n] = error

    threads = [threading.Thread(target=one, args=(n,)) for n in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_every_seed_is_listed_once(run: Path) -> None:
    app = build(run, Settings())
    names = [entry["id"] for entry in app.roster.entries()]
    first = ["translate", "edit", "answer", "rehearsal"]
    assert sorted(names) == sorted(["base", *first, *(f"{name}/seed1" for name in first)])
    assert app.roster.find("edit/seed0").adapter == app.roster.find("edit").adapter


def test_a_full_queue_is_told_and_takes_more_when_there_is_room(run: Path, slow: None) -> None:
    with served.running(run, max_rows=2, max_queue=1) as api:
        results = in_threads(*[lambda: chat(api, max_tokens=20)] * 8)
        refused = [r for r in results if isinstance(r, openai.RateLimitError)]
        done = [r for r in results if not isinstance(r, Exception)]
        assert len(done) >= 3 and len(refused) >= 1 and len(done) + len(refused) == 8
        assert refused[0].code == "queue_full" and refused[0].response.headers["retry-after"] == "1"
        assert len({r.choices[0].message.content for r in done}) == 1
        with pytest.raises(openai.BadRequestError, match="4 answers at once: this server takes 3"):
            chat(api, n=4)
        assert len(chat(api, n=3, max_tokens=3).choices) == 3


def test_what_is_in_flight_is_finished_and_nothing_new_taken(run: Path, slow: None) -> None:
    with served.running(run) as api:
        expected = words(api, "edit", max_tokens=40)
        chunks = chat(api, "edit", max_tokens=40, stream=True)
        said = next(chunks).choices[0].delta.content
        whole: list[Any] = []
        thread = threading.Thread(target=lambda: whole.append(words(api, "edit", max_tokens=40)))
        thread.start()
        while api.app.gate.active < 2:
            time.sleep(0.01)
        api.stop()
        with pytest.raises(openai.InternalServerError, match="stopping") as told:
            words(api)
        assert told.value.status_code == 503
        assert httpx.get(f"{api.address}/health").status_code == 503
        assert said + "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
        thread.join()
        assert whole == [expected]
        assert api.ended()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{api.address}/health")


def test_a_second_signal_ends_what_is_in_flight(run: Path, slow: None) -> None:
    with served.running(run) as api:
        chunks = chat(api, max_tokens=100, stream=True)
        next(chunks)
        api.stop()
        assert api.said[1].startswith("stopping when 1 requests are answered")
        api.stop()
        began = time.monotonic()
        assert api.ended()
        assert time.monotonic() - began < 2  # to the end it would be 3
        with pytest.raises((openai.APIError, httpx.RemoteProtocolError)):
            list(chunks)


def test_an_answer_has_no_more_room_than_a_batch(run: Path, tmp_path: Path) -> None:
    narrow = tmp_path / "run"
    shutil.copytree(run, narrow)
    told = yaml.safe_load((narrow / "recipe.yaml").read_text())
    (narrow / "recipe.yaml").write_text(yaml.safe_dump(told | {"evaluate": {"batch_tokens": 64}}))
    with served.running(narrow) as api, pytest.raises(openai.BadRequestError, match="room for 64 tokens"):
        chat(api, max_tokens=60)


def test_a_failing_route_is_told_and_breaks_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served.running(run) as api:
        monkeypatch.setattr("continual.serve.app.describe", lambda *a: 1 / 0)
        reply = httpx.get(f"{api.address}/api/run")
        assert reply.status_code == 500 and reply.json()["error"]["type"] == "server_error"
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        for _ in range(500):  # the reply comes before its request is counted off
            if api.app.gate.active:
                time.sleep(0.01)
        assert api.app.gate.active == 0


def test_a_key_is_asked_for_where_there_is_one(run: Path) -> None:
    with served.running(run, key="secret") as api:
        for key in ("wrong", "secre", "secrets", "sécret"):
            headers = {"Authorization": f"Bearer {key}".encode()}
            reply = httpx.get(f"{api.address}/v1/models", headers=headers)
            assert reply.status_code == 401 and reply.json()["error"]["code"] == "invalid_api_key"
        for path in ("/v1/models", "/metrics", "/api/run", "/api/votes"):
            assert httpx.get(api.address + path).status_code == 401
        for path in ("/health", "/"):
            assert httpx.get(api.address + path).status_code == 200
        with pytest.raises(openai.AuthenticationError):
            api.client("wrong").chat.completions.create(model="base", messages=HELLO)
        assert api.client("secret").chat.completions.create(model="base", messages=HELLO, max_tokens=2)
        # Whoever has the key may come by any name.
        headers = {"Authorization": "Bearer secret", "Host": "elsewhere.example"}
        assert httpx.get(f"{api.address}/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(("words", "variable"), [(["--api-key", ""], "secret"), (["--api-key", " "], None), ([], "")])
def test_an_empty_key_opens_nothing(
    run: Path,
    words: list[str],
    variable: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if variable is not None:
        monkeypatch.setenv("CONTINUAL_API_KEY", variable)
    monkeypatch.setattr(server, "Taught", lambda *given, **more: pytest.fail("the run was loaded"))
    with pytest.raises(SystemExit) as end:
        cli.main(["serve", str(run), *words])
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines() == [
        "--api-key: is empty, and would keep nobody out; give one, or leave the option out"
    ]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "my-machine"])
def test_other_machines_need_a_key_or_a_name(
    run: Path, host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(server, "Taught", lambda *given, **more: pytest.fail("the run was loaded"))
        with pytest.raises(SystemExit) as end:
            cli.main(["serve", str(run), "--host", host])
        assert end.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"--host {host}: ") and "--api-key" in line and "--allowed-host" in line
        for name in ("http://x", "x:80", "*", "", "a b"):
            with pytest.raises(ContinualError, match="--allowed-host: .* is not a host's name"):
                build(run, Settings(host=host, names=(name,)))
    assert Settings(host=host, key="k").hosts == ()
    assert {"my.example", "localhost", host} <= set(Settings(host=host, names=("My.Example",)).hosts)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.2", "::1"])
def test_this_machine_alone_needs_neither(host: str) -> None:
    settings = Settings(host=host)
    settings.check()
    assert host in settings.hosts


def test_a_page_of_another_name_is_refused_where_the_server_is_open(run: Path) -> None:
    with served.running(run, host="0.0.0.0", names=("my.example",)) as api:
        address = api.address.replace("0.0.0.0", "127.0.0.1")
        for host, status in (("evil.example", 403), ("my.example.evil.example", 403), ("my.example:8000", 200)):
            reply = httpx.get(f"{address}/v1/models", headers={"Host": host})
            assert reply.status_code == status, host
    with served.running(run, key="secret", names=("my.example",)) as api:
        headers = {"Authorization": "Bearer secret", "Host": "evil.example"}
        assert httpx.get(f"{api.address}/v1/models", headers=headers).status_code == 403


def test_nothing_is_loaded_where_no_flag_allows_it(run: Path) -> None:
    with served.running(run) as api:
        body = {"lora_name": "x", "lora_path": str(run / "arms/apart/seed0/specialists/edit")}
        for path in ("load", "unload"):
            assert httpx.post(f"{api.address}/v1/{path}_lora_adapter", json=body).status_code == 403


def test_further_adapters_are_named_as_vllm_names_them(run: Path, tmp_path: Path) -> None:
    more = served.adapter(tmp_path / "more", 50)
    app = build(run, Settings(modules=(f"one={more}", f'{{"name": "two", "path": "{more}", "base_model_name": "x"}}')))
    assert app.roster.find("one").root == app.roster.find("two").root == str(more)
    for text in ("x", "=y", "x=", "{", '{"name": "x"}'):
        with pytest.raises(ContinualError, match="--lora-modules"):
            module(text)
    with pytest.raises(ContinualError, match="cannot be an adapter's name"):
        module(f"a:b={more}")
    with pytest.raises(ContinualError, match="already a model called 'edit'"):
        build(run, Settings(modules=(f"edit={more}",)))
    with pytest.raises(ContinualError, match="no adapter, there is no"):
        build(run, Settings(modules=("x=/nowhere",)))


def test_auto_tells_whom_it_chose_and_why(tmp_path: Path) -> None:
    run = served.make_run(tmp_path)
    assert "auto" not in [entry["id"] for entry in build(run, Settings()).roster.entries()]
    prompts = {
        "translate": [f"translate {word} to french" for word in ("dog", "cat", "cow", "hen")],
        "edit": [f"mend this sentence: {word} are" for word in ("dog", "cat", "cow", "hen")],
    }
    Router.fit(prompts).save(run / FOLDER)
    with served.running(run) as api:
        assert "auto" in [model.id for model in api.client().models.list()]
        for text, who in (("translate cow to french", "translate"), ("mend this sentence: cow are", "edit")):
            messages = [{"role": "user", "content": text}]
            reply = chat(api, "auto", messages=messages)
            told = reply.model_extra["continual"]
            assert told["adapter"] == who and told["sure"] and who in told["why"]
            assert set(told["scores"]) == set(prompts)
            assert reply.model == "auto"
            assert reply.choices[0].message.content == words(api, who, messages=messages)
            first, *rest = chat(api, "auto", messages=messages, stream=True)
            assert first.model_extra["continual"] == told
            assert all("continual" not in chunk.model_extra for chunk in rest)
        unsure = chat(api, "auto", messages=[{"role": "user", "content": "zzz"}])
        assert unsure.model_extra["continual"]["adapter"] == "base"
        assert not unsure.model_extra["continual"]["sure"]
        with pytest.raises(openai.BadRequestError, match="auto picks one adapter for a request"):
            api.client().completions.create(model="auto", prompt=["translate cow to french", "mend this: cow are"])


def test_adapters_need_no_choice_of_one(run: Path) -> None:
    with pytest.raises(ContinualError, match="are adapters, and are all served"):
        build(run, Settings(only="edit"))


def test_an_adapter_that_the_base_started_with_is_a_part_of_it(tmp_path: Path) -> None:
    run = served.make_run(tmp_path)
    plain = build(run, Settings()).roster
    start = served.adapter(tmp_path / "start", 60)
    told = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump(told | {"start": str(start)}))
    assert plain.base.adapter is None
    with served.running(run) as api:
        expected = words(api)
        with pytest.raises(openai.BadRequestError, match="adapter of its own"):
            words(api, extra_body={"lora": [{"id": "edit"}]})
    (run / "recipe.yaml").write_text(yaml.safe_dump(told))
    with served.running(run, modules=(f"start={start}",)) as api:
        assert words(api, "start") == expected != words(api)


def test_whole_models_are_served_one_at_a_time(tmp_path: Path) -> None:
    run = served.make_run(tmp_path)
    shutil.rmtree(run / "arms")
    told = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump(told | {"adapter": None, "arms": {"rehearsal": {}}}))
    folder = write_arm(run, "rehearsal", [[0.0] * 3]) / "after/3"
    tiny.model(seed=5).save_pretrained(folder)
    with pytest.raises(ContinualError, match=r"whole ones.*--model \(base, rehearsal, rehearsal/seed0\)"):
        build(run, Settings())
    with pytest.raises(ContinualError, match="did you mean 'rehearsal'"):
        build(run, Settings(only="rehearsl"))
    for more in ({"modules": ("x=y",)}, {"allowed": (tmp_path,)}):
        with pytest.raises(ContinualError, match="no adapters can be served with a whole model"):
            build(run, Settings(only="rehearsal", **more))
    with served.running(run, only="rehearsal") as api:
        (listed,) = api.client().models.list()
        assert (listed.id, listed.root, listed.parent) == ("rehearsal", str(folder), None)
        assert words(api, "rehearsal")
        with pytest.raises(openai.NotFoundError):
            words(api, "base")
