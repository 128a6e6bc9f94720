"""What is rehearsed: budgets, checks, top-up, text on disk; LAMOL's mechanics and ours."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from conftest import teach

from continual.chat import Chat
from continual.data import TokenBatches
from continual.methods.rehearsal import rehearsed_sets, summary
from continual.rehearse import text
from continual.rehearse.budget import quotas
from continual.rehearse.check import Draft, Page, rejection
from continual.rehearse.cues import Cues
from continual.rehearse.surprise import answer_loss
from continual.rehearse.writer import ModelWriter, RealWriter
from continual.request import Output
from continual.runs import read_json
from continual.sample import Message, Sample
from continual.sampling import Sampling

SIZES = {"sst": 6920, "srl": 6414, "woz": 2536}


def test_lamols_budget_hangs_on_the_new_task_and_is_shared() -> None:
    # jojotenya/LAMOL utils.py: ceil(0.2 * 2536) = 508, minus 508 % 2, halved
    assert quotas("new_task", 0.2, None, SIZES, "woz", ["sst", "srl"]) == {"sst": 254, "srl": 254}
    assert quotas("new_task", 0.05, None, SIZES, "srl", ["sst"]) == {"sst": 321}


def test_our_budget_gives_each_old_task_a_share_of_its_own_size() -> None:
    assert quotas("old_task", 0.2, None, SIZES, "woz", ["sst", "srl"]) == {"sst": 1384, "srl": 1283}
    assert quotas("old_task", 0.2, 50, SIZES, "woz", ["sst", "srl"]) == {"sst": 50, "srl": 50}


def test_a_tasks_own_quota_wins() -> None:
    own = {"srl": 10, "woz": 9}
    assert quotas("old_task", 0.2, None, SIZES, "woz", ["sst", "srl"], own=own) == {"sst": 1384, "srl": 10}
    assert quotas("new_task", 0.2, 50, SIZES, "woz", ["sst", "srl"], own={"sst": 3}) == {"sst": 3, "srl": 50}


def test_the_curriculum_gives_a_task_its_quota(world: Path) -> None:
    run = teach(world, curriculum=[{"task": "sound", "rehearsal_samples": 3}, "legs"])
    assert read_json(run / "arms/rehearsal/seed0/run.json")["rehearsed"][0]["wanted"] == 2 * 3  # of each epoch


def test_there_are_other_samples_for_each_epoch_of_the_longest_task(world: Path) -> None:
    settings: dict[str, Any] = {"arms": {"rehearsal": {"rehearsal": {"samples": 3, "max_tries": 1}}}}
    settings["curriculum"] = ["sound", {"task": "legs", "num_train_epochs": 4}]
    run = teach(world, **settings)
    assert read_json(run / "arms/rehearsal/seed0/run.json")["rehearsed"][0]["wanted"] == 4 * 3


def test_no_more_are_told_than_are_learnt() -> None:
    written = [text.Written((Message("user", "q"), Message("assistant", "a")), "", None, 1)] * 5
    assert summary("new", "old", 1, 3, written, real=False)["kept"] == 3
    told = summary("new", "old", 1, 3, written, real=True)
    assert (told["kept"], told["real_rows"]) == (3, 5)  # what is stored is stored


def test_a_cue_is_the_tasks_own_or_shared() -> None:
    own, shared = (Cues(kind, {"sst": 0, "srl": 1}, {}) for kind in ("task", "shared"))
    assert own.texts["sst"] == ("sst",)
    assert shared.texts["sst"] == shared.texts["srl"]


def draft(question: str = "q", answer: str = "two", finished: bool = True, parsed: bool = True) -> Draft:
    messages = (Message("user", question), Message("assistant", answer)) if parsed else None
    return Draft("", messages, finished, 5)


ALL = ("eos", "parses", "non_empty", "label", "duplicate")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (draft(finished=False), "eos"),
        (draft(parsed=False), "parses"),
        (draft(question=""), "non_empty"),
        (draft(answer=""), "non_empty"),
        (draft(answer="three"), "label"),
        (draft(question="seen"), "duplicate"),
        (draft(), None),
    ],
)
def test_each_check_gives_its_reason(bad: Draft, reason: str | None) -> None:
    seen = draft(question="seen").messages
    assert seen is not None
    assert rejection(bad, ALL, Page("t", ("two", "six"), kept={seen})) == reason


def test_lamol_rejects_only_what_does_not_split_into_question_and_answer() -> None:
    seen = draft().messages
    assert seen is not None
    for accepted in (draft(finished=False), draft(answer=""), draft(answer="three"), draft()):
        assert rejection(accepted, ("parses",), Page("t", ("two", "six"), kept={seen})) is None
    assert rejection(draft(parsed=False), ("parses",), Page("t")) == "parses"


class Scripted:
    """Stands in for `Decoder`: says the next texts of a script, whatever it is asked."""

    def __init__(self, chat: Chat, script: list[str]) -> None:
        self.chat, self.script, self.seeds = chat, script, []  # type: Chat, list[str], list[int]

    def __call__(self, *args: Any, **more: Any) -> "Scripted":
        return self

    def generate(
        self, prompts: Any, limit: Any, sampling: Sampling, seeds: list[int], skip: int = 0, until: Any = ()
    ) -> list[Output]:
        self.seeds += seeds
        said = [self.script.pop(0) for _ in prompts]
        return [Output((*self.chat._ids(t), self.chat.end_id), True) for t in said]


def write(monkeypatch: pytest.MonkeyPatch, script: list[str], wanted: int, **more: Any) -> tuple[list[Any], Scripted]:
    chat = Chat(tiny.tokenizer())
    scripted = Scripted(chat, script)
    monkeypatch.setattr("continual.rehearse.writer.Decoder", scripted)
    settings = {"checks": ALL, "top_up": True, "max_tries": 4, "max_new_tokens": 9, **more}
    writer = ModelWriter(chat, {"t": ("t",)}, {"t": ()}, sampling=Sampling(1.0), batch_tokens=99, **settings)
    return writer.write(None, {"t": wanted}, seed=0)["t"], scripted


def good(n: int) -> str:
    return f"User: {n}\nAI: two"


def test_top_up_draws_until_enough_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    script = [good(1), good(1), "nonsense", good(2), *[good(n) for n in range(3, 20)]]
    samples, scripted = write(monkeypatch, script, 4)
    assert [s.reason for s in samples[:4]] == [None, "duplicate", "parses", None]
    assert sum(s.reason is None for s in samples) == 4
    assert {s.reason for s in samples} <= {None, "duplicate", "parses", "surplus"}
    assert len(set(scripted.seeds)) == len(scripted.seeds)  # no draw is repeated


def test_top_up_gives_up_after_max_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, _ = write(monkeypatch, ["nonsense"] * 100, 3, max_tries=4)
    assert len(samples) == 12 and all(s.reason == "parses" for s in samples)


def test_lamol_draws_once_and_keeps_duplicates(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, _ = write(monkeypatch, [good(1), good(1), "nonsense"], 3, top_up=False, checks=("parses",))
    assert [s.reason for s in samples] == [None, None, "parses"]


def test_all_tasks_are_written_in_one_batch_and_each_as_if_alone() -> None:
    chat, model = Chat(tiny.tokenizer()), tiny.model().double()
    tasks = ("sound", "legs", "say")
    writer = ModelWriter(
        chat, {t: (t,) for t in tasks}, dict.fromkeys(tasks, ()), ALL, Sampling(1.0), True, 3, 20, batch_tokens=9999
    )
    together = writer.write(model, {"sound": 3, "legs": 5, "say": 1}, seed=4)
    assert {task: len(samples) for task, samples in together.items()} == {"sound": 9, "legs": 15, "say": 3}
    assert together["legs"] == writer.write(model, {"legs": 5}, seed=4)["legs"]


def test_real_rows_are_stored_once_and_the_same_ones_come_back() -> None:
    rows = [Sample("t", (Message("user", str(i)), Message("assistant", "a"))) for i in range(50)]
    writer = RealWriter({"t": rows}, seed=0)
    ten, four = (writer.write(None, {"t": n}, seed=n)["t"] for n in (10, 4))
    assert [s.messages for s in ten[:4]] == [s.messages for s in four]


def test_a_stored_row_is_encoded_as_when_it_was_first_learned(tmp_path: Path) -> None:
    chat = Chat(tiny.tokenizer())
    tool = {"type": "function", "function": {"name": "add", "parameters": {}}}
    fixed = ("say what it is: ", "\nis it good or bad?")

    def row(n: int, **known: Any) -> Sample:
        turns = [Message("user", f"{fixed[0]}{'the dog sees cat ' * n}{fixed[1]}"), Message("assistant", "good")]
        return Sample("t", tuple(turns * (1 + n % 3)), ("good", "bad"), ("good",), **known)

    rows = [row(n, instruction=fixed, delimiter="\n" if n % 2 else " ", tools=(tool,) * (n % 2)) for n in range(40)]
    rows += [row(n) for n in range(20)]
    text.save(tmp_path / "r.jsonl", RealWriter({"t": rows}, seed=0).write(None, {"t": 60}, seed=1)["t"])
    back = text.kept("t", text.load(tmp_path / "r.jsonl"), ("good", "bad"), " ")
    whole = {(one.messages, one.instruction): one for one in rows}
    assert len(back) == 60
    for one in back:
        first = whole[one.messages, one.instruction]
        assert one == first
        if not first.tools:  # the plain form refuses tools
            assert chat.encode(one, 60) == chat.encode(first, 60)
    assert sum(chat.encode(one, 60).truncated for one in back if not one.tools) > 10


def test_text_survives_the_disk_even_with_unicode_line_breaks(tmp_path: Path) -> None:
    samples = [text.Written((Message("user", "a\u2028b\x85c"), Message("assistant", "早安")), "raw\n", None, 3)]
    text.save(tmp_path / "r.jsonl", samples)
    assert text.load(tmp_path / "r.jsonl") == samples
    assert "早安" in (tmp_path / "r.jsonl").read_text(encoding="utf-8")


def test_tool_turns_survive_the_disk_and_plain_turns_are_written_without_their_keys(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    turns = (
        Message("user", "1 + 1"),
        Message("assistant", "", (call,)),
        Message("tool", "2", name="add"),
        Message("assistant", "two"),
    )
    text.save(tmp_path / "r.jsonl", [text.Written(turns, "", None, 3)])
    assert text.load(tmp_path / "r.jsonl")[0].messages == turns
    written = json.loads((tmp_path / "r.jsonl").read_text(encoding="utf-8"))["messages"]
    assert written[0] == {"role": "user", "content": "1 + 1"} and written[1]["tool_calls"] == [call]
    assert len({turns, (*turns[:1], Message("assistant", ""), *turns[2:])}) == 2


def test_a_run_keeps_its_rehearsed_text_and_counts_no_real_row(world: Path) -> None:
    run = teach(world)
    told = read_json(run / "arms/rehearsal/seed0/run.json")
    lines = (run / "arms/rehearsal/seed0/rehearsed/2-sound.jsonl").read_text().splitlines()
    entry = told["rehearsed"][0]
    assert (entry["before"], entry["task"], entry["wanted"]) == ("legs", "sound", 14)  # ceil(0.2 * 33) for each epoch
    assert entry["drawn"] == len(lines) == entry["kept"] + sum(entry["rejected"].values())
    assert all((json.loads(line)["reason"] is None) == json.loads(line)["kept"] for line in lines)
    assert told["cost"]["real_rows_kept"] == 0 and told["cost"]["generated_tokens"] > 0


@pytest.mark.parametrize(
    ("settings", "rows"),
    [
        ({"fresh": False}, 7),  # ceil(0.2 * 33)
        ({}, 14),  # others in each of two epochs
        ({"ratio": 0.9}, 33),  # all there are, some in both epochs
    ],
)
def test_real_replay_is_the_same_plugin_with_counted_rows(world: Path, settings: dict[str, Any], rows: int) -> None:
    arms = {"real": {"rehearsal": {"writer": "real", **settings}}}
    run = teach(world, arms=arms, curriculum=["sound", "legs", "first"])
    told = read_json(run / "arms/real/seed0/run.json")
    assert [(e["before"], e["task"], e["kept"], e["wanted"]) for e in told["rehearsed"]] == [
        ("legs", "sound", rows, rows),
        ("first", "sound", rows, rows),
        ("first", "legs", rows, rows),
    ]
    assert told["cost"]["real_rows_kept"] == 2 * rows and told["cost"]["stored_bytes"] > 0
    assert told["cost"]["generated_tokens"] == 0


@pytest.mark.parametrize("template", [False, True])
def test_a_taught_model_rehearses_what_it_was_taught(template: bool) -> None:
    # In the template the user's turn ends with the same token as the answer: the writer must not stop there.
    from continual.batch import Collate
    from continual.curriculum import benchmark
    from continual.learn import CausalLMTemplate, Hyperparameters
    from continual.model import CausalLM

    chat = Chat(tiny.tokenizer(template))
    collate = Collate(chat.bos_ids, {0: chat.cue_ids("t")}, chat.end_id)
    taught = Sample("t", (Message("user", "a dog"), Message("assistant", "red")))
    lessons = benchmark(["t"], {"t": dict.fromkeys(("train", "dev", "test"), [taught] * 8)}, chat, collate, 40)
    model = tiny.model()
    strategy = CausalLMTemplate(
        model=CausalLM(model),
        hyperparameters=Hyperparameters(learning_rate=2e-2, num_train_epochs=120, tokens_per_batch=400),
        seed=0,
        collate=collate,
        lm_lambda=1.0,
        cue_dropout=0.0,
    )
    strategy.train(lessons.train_stream[0], eval_streams=[])
    writer = ModelWriter(
        chat, {"t": ("t",)}, {"t": ()}, ("eos", "parses"), Sampling(1.0, top_k=20), False, 1, 40, batch_tokens=999
    )
    samples = writer.write(model, {"t": 8}, seed=0)["t"]
    assert sum(s.reason is None and s.messages == taught.messages for s in samples) >= 6


def test_each_set_has_every_tasks_quota_and_no_sample_twice() -> None:
    enough, few, three = 12, 3, range(3)
    sets = rehearsed_sets([enough, few], [4, 2], 3, None, seed=0)
    of_first, of_second = ([[i for i in one if (i >= enough) == late] for one in sets] for late in (False, True))
    assert sorted(sum(of_first, [])) == list(range(enough))  # as many as were wanted: each once
    assert all(len(set(one)) == 2 for one in of_second)  # too few were kept: they come again, in another set
    assert {i for one in of_second for i in one} == {enough + i for i in three}
    assert [len(one) for one in rehearsed_sets([2], [4], 1, None, seed=0)] == [2]
    assert [len(one) for one in rehearsed_sets([9], [3], 3, 5, seed=0)] == [5, 5, 5]  # repeated to their share
    assert rehearsed_sets([], [], 3, None, seed=0) == []


def test_what_a_share_leaves_out_is_not_learnt(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = []

    class Watched(TokenBatches):
        def __init__(self, dataset: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(dataset, *args, **kwargs)
            cut.append([sum(dataset[int(i)]["rehearsed"] > 0 for i in self._rows(epoch)) for epoch in (0, 1)])

    monkeypatch.setattr("continual.learn.TokenBatches", Watched)
    teach(world, arms={"a": {"rehearsal": {"writer": "real", "samples": 12, "share": 0.1}}})
    rows = cut[1]
    assert cut[0] == [0, 0] and rows[0] == rows[1] and 0 < rows[0] < 6


def test_a_long_row_is_no_longer_than_the_model_can_see() -> None:
    # GPT-2 has a table of 128 positions.
    chat, long = Chat(tiny.tokenizer()), "red " * 150
    for question, answer in ((long, "two"), ("q", long), (long, long)):
        sample = Sample("t", (Message("user", question), Message("assistant", answer)))
        assert answer_loss(chat, 4096, 64)(tiny.model("gpt2"), [sample]) > 0


def test_a_teachers_answer_ends_where_a_sample_must(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    generate = Scripted.generate

    def watched(self: Scripted, prompts: Any, limit: Any, *given: Any, **more: Any) -> list[Output]:
        asked.append((prompts, limit))
        return generate(self, prompts, limit, *(given or (Sampling(1.0), [0], ())))

    monkeypatch.setattr(Scripted, "generate", watched)
    write(monkeypatch, [good(1), "two"], 1, relabel=True)
    (prompt,), (room,) = asked[1]
    assert 1 <= room <= max(1, 1 + 9 - len(prompt))  # bos, and max_new_tokens of the whole sample
