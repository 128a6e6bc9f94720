"""What the server gives the page, and whom it answers."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import served

from continual.route import BASE
from continual.serve.app import describe


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return served.make_run(tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="module")
def api(run: Path) -> Iterator[served.Running]:
    with served.running(run) as it:
        yield it


def test_the_page_gets_the_run_and_the_votes(api: served.Running, run: Path) -> None:
    votes, told = f"{api.address}/api/votes", httpx.get(f"{api.address}/api/run").json()
    assert told["tasks"] == list(served.TASKS) and told["base"] == BASE
    assert told["arms"]["rehearsal"]["runs"][0]["R"][-1] == [0.4, 0.4, 0.5]
    for winner in ("a", "a", "b", "tie"):
        reply = httpx.post(votes, json={"a": "edit", "b": "base", "winner": winner, "prompt": "x\u2028y"})
        assert reply.status_code == 201
    assert httpx.post(votes, json={"a": "edit", "b": "edit", "winner": "a"}).status_code == 400
    assert httpx.post(votes, json={"a": "edit", "b": "nobody", "winner": "a"}).status_code == 404
    results = httpx.get(votes).json()
    assert results["votes"] == 4
    (pair,) = results["pairs"]
    assert (pair["a"], pair["b"], pair["rate"]) == ("base", "edit", 1.5 / 4)
    assert pair["interval"][0] < 1.5 / 4 < pair["interval"][1]
    assert len([json.loads(line) for line in (run / "votes.jsonl").read_text().split("\n") if line]) == 4


def test_an_example_is_a_conversation_that_can_be_sent(run: Path) -> None:
    predictions = run / "arms/rehearsal/seed0/predictions"
    predictions.mkdir()
    calls = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add"}}]}
    user, result = {"role": "user", "content": "a"}, {"role": "tool", "content": "4"}
    talk = [{"role": "system", "content": "s"}, user, {"role": "assistant", "content": "b"}, user]
    prompts = {"edit": ["one", "two"], "answer": [[user, calls, result], talk], "translate": [[user, calls, result]]}
    for task, lines in prompts.items():
        text = "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in lines)
        (predictions / f"1-{task}.jsonl").write_text(text)
    examples = describe(run, "base")["examples"]
    assert examples == {"edit": [{"role": "user", "content": "one"}], "answer": talk}


def test_a_vote_on_a_conversation_keeps_what_was_said(api: served.Running, run: Path) -> None:
    talk = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    vote = {"a": "edit", "b": "base", "winner": "a", "prompt": talk, "answers": {"a": ["1", "2"], "b": ["3", "4"]}}
    assert httpx.post(f"{api.address}/api/votes", json=vote).status_code == 201
    stored = json.loads((run / "votes.jsonl").read_text().splitlines()[-1])
    assert {key: stored[key] for key in vote} == vote


def test_the_page_is_served_and_nothing_of_elsewhere_may_run_in_it(api: served.Running) -> None:
    page = httpx.get(f"{api.address}/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert httpx.get(f"{api.address}/..%2fapp.py").status_code == 404
    assert httpx.get(f"{api.address}/health").json() == {"status": "ok"}


def test_without_a_key_only_this_machines_own_names_are_answered(api: served.Running) -> None:
    for host in ("evil.example:80", "evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "[", ""):
        assert httpx.get(f"{api.address}/v1/models", headers={"Host": host}).status_code in (400, 403), host
    for host in ("localhost:1", "localhost", "127.0.0.1", "[::1]:8000", "LOCALHOST:8000"):
        assert httpx.get(f"{api.address}/v1/models", headers={"Host": host}).status_code == 200, host
