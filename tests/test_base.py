"""What an untaught model writes by itself, and how it is rehearsed from the first task on."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from conftest import recipe, teach
from pydantic import ValidationError

from continual.batch import Collate
from continual.chat import Chat
from continual.data import Rows, TokenBatches, dataset
from continual.errors import ContinualError
from continual.rehearsal_settings import Rehearsal
from continual.rehearse import text
from continual.rehearse.base import BASE, CUE, BaseWriter, base_cue, kind_of
from continual.rehearse.budget import base_quota
from continual.request import Output
from continual.runs import read_json
from continual.sample import Message, Sample
from continual.sampling import Sampling


def test_who_has_a_chat_template_writes_conversations_unless_told_otherwise() -> None:
    plain, templated = Chat(tiny.tokenizer()), Chat(tiny.tokenizer(template=True))
    assert kind_of(False, templated) is None
    assert (kind_of(True, plain), kind_of(True, templated)) == ("documents", "chat")
    assert (kind_of("chat", plain), kind_of("documents", templated)) == ("chat", "documents")
    assert kind_of(True, Chat(tiny.tokenizer(template=True), "plain")) == "documents"
    with pytest.raises(ContinualError, match="marks of turns"):
        kind_of("chat", Chat(tiny.tokenizer(), "none"))


def test_how_many_does_not_hang_on_later_tasks() -> None:
    assert base_quota(Rehearsal(ratio=0.2), 33) == 7
    assert base_quota(Rehearsal(samples=50), 33) == 50
    assert base_quota(Rehearsal(samples=50, base_samples=3), 33) == 3


class Scripted:
    """Stands in for `Decoder`: says the next texts of a script, and keeps what it was asked."""

    def __init__(self, chat: Chat, script: list[str]) -> None:
        self.chat, self.script = chat, script
        self.asked: list[tuple[list[str], Sampling, Any]] = []

    def __call__(self, *args: Any, **more: Any) -> "Scripted":
        return self

    def generate(
        self, prompts: Any, limit: Any, sampling: Sampling | None = None, seeds: Any = None, until: Any = ()
    ) -> list[Output]:
        self.asked.append(([self.chat.text(p) for p in prompts], sampling or Sampling(), limit))
        said = [self.chat._ids(self.script.pop(0)) for _ in prompts]
        stops = (*self.chat.stop_ids, 1)
        return [Output(tuple(ids), bool(ids) and ids[-1] in stops) for ids in said]


def written(monkeypatch: pytest.MonkeyPatch, kind: Any, script: list[str], wanted: int, **more: Any) -> Any:
    chat = Chat(tiny.tokenizer(template=kind == "chat"))
    scripted = Scripted(chat, script)
    monkeypatch.setattr("continual.rehearse.base.Decoder", scripted)
    settings = {"room": 40, "top_up": False, "max_tries": 1, "batch_tokens": 999, **more}
    return BaseWriter(chat, kind, **settings).write(None, wanted, seed=0), scripted


def test_a_chat_model_writes_a_question_after_the_bare_header_and_answers_greedily(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = ["a dog<|end|>", "never ends", "a <|user|> mark<|end|>", "<|end|>", "a cat<|end|>", "a hen<|end|>"]
    answers = ["red<|end|>", "blue<|end|>", "goes on"]
    samples, scripted = written(monkeypatch, "chat", script + answers, 6)
    assert [s.reason for s in samples] == [None, "eos", "parses", "non_empty", None, "eos"]
    assert samples[0].messages == (Message("user", "a dog"), Message("assistant", "red"))
    (heads, drawn, half), (prompts, greedy, rest) = scripted.asked
    assert heads == ["<|user|>"] * 6 and drawn == Sampling(1.0) and half == 20
    assert prompts[0] == "<|user|>a dog<|end|><|assistant|>" and len(prompts) == 3
    assert greedy.temperature == 0 and rest[0] == 40 - len(scripted.chat._ids(prompts[0]))


def test_a_question_in_the_plain_form_ends_where_the_answer_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = Chat(tiny.tokenizer())
    assert chat.text(chat.header_ids) == "User:" and chat.question_ends == ("AI:",)
    assert Chat(tiny.tokenizer(template=True)).question_ends == ()
    scripted = Scripted(chat, [" a dog\nAI:", "red<|end|>"])
    generate = scripted.generate
    monkeypatch.setattr(
        scripted, "generate", lambda *a, **k: [Output(o.ids, True) for o in generate(*a, **k)], raising=True
    )
    monkeypatch.setattr("continual.rehearse.base.Decoder", scripted)
    (sample,) = BaseWriter(chat, "chat", 40, False, 1, 999).write(None, 1, seed=0)
    assert sample.messages == (Message("user", "a dog"), Message("assistant", "red"))


def test_a_base_model_writes_documents_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    script = ["the red dog<|end|>", "the cat goes on", "<|end|>", " ", "the red dog<|end|>"]
    samples, scripted = written(monkeypatch, "documents", script, 5)
    assert [s.reason for s in samples] == [None, None, "non_empty", "non_empty", "duplicate"]
    assert samples[0].messages == (Message("document", "the red dog<|end|>"),)
    starts, drawn, room = scripted.asked[0]
    assert starts == ["<|end|>"] * 5  # there is no start token: the end of the document before
    assert drawn == Sampling(1.0) and room == 40


def test_what_is_rejected_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    script = ["a<|end|>", "a<|end|>", *[f"the {n} thing<|end|>" for n in range(30)]]
    samples, _ = written(monkeypatch, "documents", script, 4, top_up=True, max_tries=4)
    assert sum(s.reason is None for s in samples) == 4 and samples[1].reason == "duplicate"


def test_a_document_is_encoded_as_it_stands(tmp_path: Path) -> None:
    chat = Chat(tiny.tokenizer(template=True))
    document = Sample(BASE, (Message("document", " the dog<|end|>"),))
    encoded = chat.encode(document, 40)
    assert encoded.input_ids == chat._ids(" the dog<|end|>") and encoded.input_ids[-1] == chat.end_id
    assert not any(encoded.answer) and not encoded.truncated
    short = chat.encode(document, 2)
    assert short.input_ids == encoded.input_ids[:2] and short.answer == [0, 0] and short.truncated
    kept = [text.Written(document.messages, "", None, 3)]
    text.save(tmp_path / "0-base.jsonl", kept)
    assert text.load(tmp_path / "0-base.jsonl") == kept


def rows_of_base(kind: Any, passes: Any, sample: Sample) -> tuple[TokenBatches, Chat]:
    chat = Chat(tiny.tokenizer(template=kind == "chat"))
    documents = frozenset([CUE]) if kind == "documents" else frozenset()
    cues = {0: chat.cue_ids("t"), CUE: base_cue(kind, chat)}
    collate = Collate(chat.bos_ids, cues, chat.end_id, passes, None, documents)
    rows = Rows([chat.encode(sample, 40)])
    data = dataset(rows, 5, collate, [CUE], rehearsed=True)
    return TokenBatches(data, collate, seed=0, tokens_per_batch=100, cue_dropout=0.99999), chat


@pytest.mark.parametrize("passes", ["one", "two"])
def test_each_token_of_a_document_bears_the_sample_loss_once_whatever_the_dropout(passes: Any) -> None:
    batches, chat = rows_of_base("documents", passes, Sample(BASE, (Message("document", "the dog"),)))
    ((x, y, t),) = batches
    ids = chat._ids("the dog")
    assert x.input_ids.tolist() == [[chat.end_id, *ids]] and y.tolist() == ids
    assert x.cued.tolist() == [1] * len(ids) and not x.answer.any()
    assert set(x.rehearsed.tolist()) == {6} and set(t.tolist()) == {5}
    assert batches._tokens(torch.zeros(1, dtype=torch.bool).numpy()).tolist() == [1 + len(ids)]


def test_a_conversation_of_the_base_bears_losses_like_any_rehearsed_sample() -> None:
    sample = Sample(BASE, (Message("user", "a dog"), Message("assistant", "red")))
    batches, chat = rows_of_base("chat", "one", sample)
    batches.cue_dropout = 0.0
    ((x, y, t),) = batches
    whole = chat._ids("<|user|>a dog<|end|><|assistant|>red<|end|>")
    assert x.input_ids.tolist() == [whole] and y.tolist() == whole[1:]  # its cue is nothing
    assert x.cued.tolist() == [1] * (len(whole) - 1)
    assert int(x.answer.sum()) == len(chat._ids("red")) + 1


BASES = {"documents": {"rehearse_base": "documents", "base_samples": 4}, "chat": {"rehearse_base": "chat"}}


@pytest.mark.parametrize("kind", ["documents", "chat"])
def test_the_untaught_model_writes_once_and_every_task_learns_it(world: Path, kind: Any) -> None:
    from continual.model import load_model, load_tokenizer
    from continual.seeds import derive

    rehearsal = {"ratio": 0.2, "max_tries": 2, **BASES[kind]}
    run = teach(world, arms={"rehearsal": {"rehearsal": rehearsal}}, curriculum=["sound", "legs", "first"], keep="all")
    folder = run / "arms/rehearsal/seed0"
    told = read_json(folder / "run.json")
    about_base = [entry for entry in told["rehearsed"] if entry["task"] == "base"]
    wanted = 4 if kind == "documents" else 7  # ceil(0.2 * 33)
    assert [(e["before"], e["wanted"]) for e in about_base] == [(t, wanted) for t in ("sound", "legs", "first")]
    assert told["cost"]["real_rows_kept"] == 0
    lines = (folder / "rehearsed/0-base.jsonl").read_text(encoding="utf-8").splitlines()
    roles = {m["role"] for line in lines for m in json.loads(line)["messages"] or ()}
    assert roles <= ({"document"} if kind == "documents" else {"user", "assistant"})
    assert read_json(folder / "after/1/trained.json")["generated_tokens"] == sum(
        json.loads(r)["tokens"] for r in lines
    )
    # What stands there is what the model says that nobody has taught.
    chat = Chat(load_tokenizer(str(world / "model")))
    longest_cue = max(len(chat.cue_ids(task)) for task in ("sound", "legs", "first"))
    writer = BaseWriter(chat, kind, 48 - longest_cue, True, 2, 131072)
    again = writer.write(load_model(str(world / "model")), wanted, derive(0, "base"))
    assert text.load(folder / "rehearsed/0-base.jsonl") == again


def test_without_the_base_the_first_task_learns_its_own_rows_alone(world: Path) -> None:
    arms = {
        "plain": {"rehearsal": {"ratio": 0.2, "max_tries": 2}},
        "own": {"rehearsal": {"ratio": 0.2, "max_tries": 2, "rehearse_base": "documents", "base_samples": 4}},
    }
    run = teach(world, arms=arms, curriculum=["sound"])
    tokens = {a: read_json(run / f"arms/{a}/seed0/run.json")["cost"]["train_tokens"] for a in arms}
    written = text.load(run / "arms/own/seed0/rehearsed/0-base.jsonl")
    chat = Chat(tiny.tokenizer(template=True))
    cue = len(chat.cue_ids("sound"))
    kept = text.kept("base", written, (), " ")
    rows = [1 + len(chat.encode(sample, 48 - cue).input_ids) for sample in kept]
    # Two epochs of each document with its start; which rows carry their cue is drawn anew where there are more rows.
    assert abs(tokens["own"] - tokens["plain"] - 2 * sum(rows)) <= 2 * 33 * cue
    assert (tokens["own"] - tokens["plain"] - 2 * sum(rows)) % cue == 0


def test_distillation_reaches_the_first_task_too(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from continual import crossentropy
    from continual.methods import distill

    guided = []
    guide = distill.DistillPlugin.guide

    def counting(self: Any, model: Any, x: Any) -> Any:
        told = guide(self, model, x)
        if told is not crossentropy.plain:
            guided.append(set(x.rehearsed.tolist()))
        return told

    monkeypatch.setattr(distill.DistillPlugin, "guide", counting)
    rehearsal = {"rehearse_base": "documents", "base_samples": 4, "distill": {}}
    teach(world, arms={"rehearsal": {"rehearsal": rehearsal}}, curriculum=["sound"])
    assert guided and all(marks <= {0, 2} and 2 in marks for marks in guided)
    assert (world / "run/arms/rehearsal/seed0/rehearsed/0-base.safetensors").exists()  # the untaught model's own


def test_with_specialists_as_teachers_the_base_is_its_own(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from continual.rehearse import teacher

    asked: dict[str, Any] = {}
    of = teacher.Specialists.of

    def remembering(self: Any, model: Any, task: str) -> Any:
        asked[task] = of(self, model, task)
        return asked[task]

    monkeypatch.setattr(teacher.Specialists, "of", remembering)
    rehearsal = {"rehearse_base": "documents", "base_samples": 4, "distill": {"teacher": "specialist"}}
    teach(world, arms={"alone": {"teach": "specialists"}, "r": {"rehearsal": rehearsal}}, adapter={"r": 2})
    assert all(not tensor.any() for name, tensor in asked["base"].items() if "lora_B" in name)
    assert any("lora_B" in name for name in asked["base"])


def test_a_run_that_dies_rehearses_the_same_base(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from test_resume import ADAPTER, TRAINING, Killed, die_at, matrices

    arms = {"rehearsal": {"rehearsal": {"ratio": 0.2, "max_tries": 2, "rehearse_base": True, "base_samples": 4}}}
    settings = {"arms": arms, "adapter": ADAPTER, "training": TRAINING}
    whole = teach(world, **settings, output_dir=str(world / "whole"))
    deaths = 0
    for nth in (5, 6, 7, 9, 12, 100):
        with monkeypatch.context() as patch:
            die_at(patch, nth)
            try:
                run = teach(world, **settings)
                break
            except Killed:
                deaths += 1
    else:
        run = teach(world, **settings)
    assert deaths >= 4
    assert matrices(run) == matrices(whole)
    name = "arms/rehearsal/seed0/rehearsed/0-base.jsonl"
    assert (run / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize("teach_", ["specialists", "multitask"])
def test_arms_without_a_sequence_refuse_it(world: Path, teach_: str) -> None:
    with pytest.raises(ValidationError, match="only teach: sequential"):
        recipe(world, adapter={}, arms={"x": {"teach": teach_, "rehearsal": {"rehearse_base": True}}})


def test_documents_without_a_sample_loss_are_refused(world: Path) -> None:
    with pytest.raises(ContinualError, match="lm_lambda is 0"):
        teach(world, arms={"x": {"rehearsal": {"rehearse_base": "documents", "lm_lambda": 0}}})
