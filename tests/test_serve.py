"""The HTTP API, asked by OpenAI's own client."""

from pathlib import Path

import pytest
import served

from continual.serve.roster import BASE

NAMES = [BASE, "translate", "edit", "answer", "rehearsal"]
HELLO = [{"role": "user", "content": "say what colour the dog is"}]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return served.make_run(tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="module")
def api(run: Path):
    with served.running(run, double=True) as it:
        yield it


def test_every_model_is_listed_with_root_and_parent(api: served.Running, run: Path) -> None:
    listed = {model.id: model for model in api.client.models.list()}
    assert sorted(listed) == sorted(NAMES)
    assert listed[BASE].parent is None and listed[BASE].root == str(run.parent / "model")
    assert listed["edit"].parent == BASE and listed["edit"].root.endswith("specialists/edit")


def test_each_model_answers_under_its_own_name(api: served.Running) -> None:
    said = {}
    for name in NAMES:
        reply = api.client.chat.completions.create(model=name, messages=HELLO, temperature=0, max_tokens=12)
        said[name] = reply.choices[0].message.content
        chunks = api.client.chat.completions.create(
            model=name, messages=HELLO, temperature=0, max_tokens=12, stream=True
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == said[name]
    assert len(set(said.values())) == len(NAMES)
