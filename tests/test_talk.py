"""Asking, chatting with and listening to the models that a run has left behind."""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from conftest import make_world, teach
from rich.console import Console

from continual import talk
from continual.chat import Chat
from continual.errors import ContinualError
from continual.inference import Taught
from continual.request import Output
from continual.route import Router
from continual.sample import Message

ARMS = {
    "finetune": {},
    "rehearsal": {"rehearsal": {"ratio": 0.2, "max_tries": 2}},
    "specialists": {"teach": "specialists"},
}
TRAINING = {"learning_rate": 2e-2, "num_train_epochs": 3, "tokens_per_batch": 256, "max_length": 48}
CHEAP: dict[str, Any] = {"training": TRAINING, "evaluate": {"limit": 2}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter run with two seeds."""
    world = make_world(tmp_path_factory.mktemp("talk"))
    return teach(world, arms=ARMS, adapter={"r": 8}, seeds=[0, 1], **CHEAP)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose models are whole ones."""
    world = make_world(tmp_path_factory.mktemp("full"))
    return teach(world, arms={"plain": {}}, **CHEAP)


def greedy(model: Any, prompt: str) -> str:
    """What transformers' own generate answers."""
    import torch

    chat = Chat(tiny.tokenizer(True))
    ids = torch.tensor([chat.prompt_ids([Message("user", prompt)], 64)])
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=64, do_sample=False, eos_token_id=1
    )
    return chat.answer_text(out[0, ids.shape[1] :].tolist())


def test_each_model_answers_under_its_own_name(run: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folders = {
        "base": None,
        "finetune": "arms/finetune/seed0/after/2",
        "finetune/seed1": "arms/finetune/seed1/after/2",
        "rehearsal": "arms/rehearsal/seed0/after/2",
        "legs": "arms/specialists/seed0/specialists/legs",
        "sound/seed1": "arms/specialists/seed1/specialists/sound",
    }
    answers = {}
    for name, folder in folders.items():
        model = AutoModelForCausalLM.from_pretrained(run.parent / "model")
        if folder is not None:
            model = PeftModel.from_pretrained(model, run / folder)
        answers[name] = greedy(model.eval(), "sad dog")
        assert talk.ask(run, "sad dog", name) == answers[name]
    assert len(set(answers.values())) > 3  # or one model could stand for all of them


def test_whole_models_answer_too(full: Path) -> None:
    from transformers import AutoModelForCausalLM

    taught = greedy(AutoModelForCausalLM.from_pretrained(full / "arms/plain/seed0/after/2"), "sad dog")
    base = greedy(AutoModelForCausalLM.from_pretrained(full.parent / "model"), "sad dog")
    assert taught != base
    assert talk.ask(full, "sad dog", None) == taught and talk.ask(full, "sad dog", "base") == base


def test_every_seed_and_specialist_can_be_asked(run: Path) -> None:
    names = {"finetune", "rehearsal", "sound", "legs"}
    assert set(talk.taught(run)) == {"base"} | names | {f"{name}/seed{i}" for name in names for i in (0, 1)}


def test_an_unknown_adapter_is_told_with_those_there_are_and_the_base_never_answers(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("continual.inference.load_model", lambda *a: pytest.fail("a model was loaded"))
    with pytest.raises(ContinualError, match="unknown adapter 'finetun'; did you mean 'finetune'.*base.*legs"):
        talk.chat(run, "finetun", Console(file=io.StringIO()))
    with pytest.raises(ContinualError, match="unknown adapter 'finetun'"):
        talk.ask(run, "sad dog", "finetun")


def test_the_first_arm_that_rehearses_answers_when_nobody_is_named(run: Path, full: Path) -> None:
    assert talk.preferred(run) == "rehearsal"
    assert talk.preferred(full) == "plain"


def test_specialists_alone_leave_nobody_to_prefer(world: Path) -> None:
    adapter = {"r": 2}
    run = teach(world, arms={"apart": {"teach": "specialists"}}, adapter=adapter, curriculum=["legs"], **CHEAP)
    with pytest.raises(ContinualError, match="no arm has a model.*base, legs"):
        talk.preferred(run)


class Typed(Console):
    """A console at which somebody types these lines, and then ends the input."""

    def __init__(self, *lines: str) -> None:
        super().__init__(file=io.StringIO(), width=200)
        self.lines = list(lines)
        self.prompts: list[str] = []

    def input(self, prompt: Any = "", **more: Any) -> str:
        self.prompts.append(str(prompt))
        if not self.lines:
            raise EOFError
        return self.lines.pop(0)

    @property
    def said(self) -> str:
        assert isinstance(self.file, io.StringIO)
        return self.file.getvalue()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """Who was asked with which conversation; the answers are numbered."""
    noted: list[tuple[str, list[str]]] = []

    def stream(known: talk.Taught, messages: list[Message], name: str) -> Iterator[str]:
        noted.append((name, [f"{m.role}: {m.content}" for m in messages]))
        yield f"answer {len(noted)} "
        yield "[i]as it is[/i]"

    monkeypatch.setattr(talk.Taught, "stream", stream)
    return noted


def test_a_chat_goes_on_with_the_same_words_when_the_adapter_is_swapped(run: Path, asked: list) -> None:
    console = Typed("hello", "/adapter legs", "again", "/new", "fresh", "")
    talk.chat(run, "finetune", console)
    first = "assistant: answer 1 [i]as it is[/i]"
    assert asked == [
        ("finetune", ["user: hello"]),
        ("legs", ["user: hello", first, "user: again"]),
        ("legs", ["user: fresh"]),
    ]
    assert "answer 2 [i]as it is[/i]" in console.said
    assert [("finetune" in p, "legs" in p) for p in console.prompts[1:3]] == [(True, False), (False, True)]


def test_a_line_that_nobody_could_answer_is_no_part_of_the_conversation(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[list[str]] = []

    def stream(known: talk.Taught, messages: list[Message], name: str) -> Iterator[str]:
        heard.append([m.content for m in messages])
        if len(heard) == 1:
            raise ContinualError("its adapter is gone")
        yield "well"

    monkeypatch.setattr(talk.Taught, "stream", stream)
    console = Typed("hello", "again")
    talk.chat(run, "legs", console)
    assert "its adapter is gone" in console.said and heard == [["hello"], ["again"]]


def test_a_chat_without_a_name_begins_with_the_preferred_one(run: Path, asked: list) -> None:
    talk.chat(run, None, Typed("hello"))
    assert [name for name, _ in asked] == ["rehearsal"]


def test_a_mistyped_adapter_changes_nobody(run: Path, asked: list) -> None:
    console = Typed("/adapter leggs", "/adapter", "hello")
    talk.chat(run, "sound", console)
    assert "unknown adapter 'leggs'; did you mean 'legs'" in console.said
    assert [name for name, _ in asked] == ["sound"]


def test_chat_commands_are_never_asked(run: Path, asked: list) -> None:
    console = Typed("/adapters", "/what", "/quit", "after the end")
    talk.chat(run, "sound", console)
    assert asked == [] and console.lines == ["after the end"]
    listing = next(line for line in console.said.splitlines() if line.startswith("base, "))
    assert set(listing.split(", ")) == set(talk.taught(run))
    assert console.said.count("/adapter NAME") == 1  # after /what


def test_compare_puts_the_last_question_to_several_and_leaves_the_conversation_alone(run: Path) -> None:
    known = talk.Taught(run)
    everybody = [name for name in known.names() if "/" not in name]
    answers = known.generate(["sad dog"] * len(everybody), everybody)
    console = Typed("/compare", "sad dog", "/compare", "/compare legs, base", "/compare leggs", "/quit")
    talk.chat(run, "sound", console)
    first, said, *compared = console.said.splitlines()[1:]
    assert "nothing to compare yet" in first and said == answers[everybody.index("sound")]
    lines = [f"{name:<9}  {answer}".rstrip() for name, answer in zip(everybody, answers, strict=True)]
    assert [line.rstrip() for line in compared[: len(everybody)]] == lines
    two = [line.split()[0] for line in compared[len(everybody) :][:2]]
    assert two == ["legs", "base"] and any("unknown adapter 'leggs'" in line for line in compared)


def test_an_answer_that_is_cut_short_ends_and_the_chat_goes_on(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stream(*_: Any) -> Iterator[str]:
        yield "half of"
        raise KeyboardInterrupt

    monkeypatch.setattr(talk.Taught, "stream", stream)
    console = Typed("hello", "/adapters")
    talk.chat(run, "sound", console)
    assert "half of …\nbase, " in console.said


def test_help_names_every_command(run: Path, asked: list) -> None:
    console = Typed("/help")
    talk.chat(run, "sound", console)
    assert all(f"/{name}" in console.said for name in ("adapter NAME", "adapters", "compare", "new", "quit"))


def test_a_chat_that_grows_too_long_loses_its_oldest_turns(tmp_path: Path) -> None:
    # GPT-2 has a table of 128 positions: one more and it cannot answer at all.
    world = make_world(tmp_path)
    tiny.saved(world / "model", "gpt2", template=True)
    run = teach(world, arms={"plain": {}}, curriculum=["legs"], **CHEAP)
    known = talk.Taught(run)
    old, new = [Message("user", "sad bee"), Message("assistant", "red " * 150)], Message("user", "sad dog")
    long, short = known.generate([[*old, new], [new]], "plain")
    assert long == short
    known.generate(["red " * 150], "plain")


def written(*texts: tuple[str, bool]) -> Any:
    """A decoder that says these texts, over and over; with whether each ended."""
    tokenizer = tiny.tokenizer(True)

    class Decoder:
        def __init__(self, *args: Any, **more: Any) -> None:
            pass

        def generate(self, prompts: list[list[int]], *args: Any) -> list[Output]:
            said = [texts[i % len(texts)] for i in range(len(prompts))]
            return [Output((*tokenizer(text).input_ids, *([1] if ended else [])), ended) for text, ended in said]

    return Decoder


def test_rehearse_shows_what_is_kept_and_why_the_rest_is_not(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = "<|user|>old ox<|end|><|assistant|>two"
    bad = [("no marks [b]at all[/b]", True), ("<|user|>ox<|end|><|assistant|>nine", True), (good + " tw", False)]
    monkeypatch.setattr("continual.rehearse.writer.Decoder", written((good, True), *bad, (good, True)))
    console = Typed()
    talk.rehearse(run, "legs", 5, console)
    told = [line for line in console.said.splitlines() if line.startswith("───")][:5]
    assert [line.removeprefix("─" * 8).strip() for line in told] == [
        "kept",
        "rejected: parses",
        "rejected: label",
        "rejected: eos",
        "rejected: duplicate",
    ]
    assert "     user  old ox\nassistant  two\n" in console.said
    assert "no marks [b]at all[/b]" in console.said


@pytest.mark.parametrize("which", ["run", "full"])
def test_rehearse_lets_the_taught_model_write(
    which: str, request: pytest.FixtureRequest, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = request.getfixturevalue("run")
    if which == "full":
        run = teach(world, arms={"rehearsal": ARMS["rehearsal"]}, curriculum=["legs"], **CHEAP)
    asked = []
    model = talk.Taught.model
    monkeypatch.setattr(talk.Taught, "model", lambda self, name: (asked.append(name), model(self, name))[1])
    console = Typed()
    talk.rehearse(run, "legs", 3, console)
    assert asked == ["rehearsal"]
    verdicts = [line for line in console.said.splitlines() if line.startswith("─" * 8)]
    kept = sum("kept" in line for line in verdicts)
    assert kept == 3 or (kept < 3 and len(verdicts) == 6)  # max_tries is 2


def test_rehearse_refuses_a_task_that_was_not_learnt(run: Path) -> None:
    with pytest.raises(ContinualError, match="'leg' was not learnt by rehearsal; did you mean 'legs'.*sound, legs"):
        talk.rehearse(run, "leg", 3, Typed())


def test_rehearse_refuses_a_run_in_which_nobody_writes(full: Path) -> None:
    with pytest.raises(ContinualError, match="no arm of this run writes samples"):
        talk.rehearse(full, "legs", 3, Typed())


def routed(run: Path, tmp_path: Path) -> Path:
    """The same run with a router that has seen a few prompts."""
    there = tmp_path / "routed"
    shutil.copytree(run, there)
    prompts = {"sound": ["sad dog", "sad cat", "what sound"], "legs": ["how many legs", "legs of a dog", "count legs"]}
    Router.fit(prompts, unsure=None).save(there / "router")
    return there


def test_auto_is_answered_by_whom_the_router_picks_and_says_so(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = routed(run, tmp_path)
    said = {name: talk.ask(run, "how many legs", name) for name in ("legs", "sound", "base")}
    assert len(set(said.values())) == 3
    assert talk.ask(there, "how many legs", "auto") == said["legs"]
    assert capsys.readouterr().err.startswith("auto: legs (like prompts of legs")
    assert talk.ask(there, "how many legs", "auto") != talk.ask(there, "sad cat", "auto")
    unsure = talk.ask(there, "qzx", "auto")
    assert "auto: base (not sure" in capsys.readouterr().err and unsure == talk.ask(run, "qzx", "base")
    known = Taught(there)
    assert known.generate(["how many legs"] * 2, adapters=["auto", "base"]) == [said["legs"], said["base"]]
    assert "".join(known.stream("how many legs", "auto")) == said["legs"]


def test_auto_in_a_chat_tells_who_answers_each_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = iter(["/adapters", "/adapter auto", "how many legs"])
    monkeypatch.setattr(Console, "input", lambda self, prompt: next(lines, "/quit"))
    console = Console(file=io.StringIO(), width=200)
    talk.chat(routed(run, tmp_path), None, console)
    assert "auto: legs (" in console.file.getvalue()
    assert any(line.startswith("base, ") and line.endswith(", auto") for line in console.file.getvalue().splitlines())


def test_auto_without_a_router_says_how_to_get_one(run: Path) -> None:
    for ask in (lambda: talk.ask(run, "x", "auto"), lambda: Taught(run).generate(["x"], "auto")):
        with pytest.raises(ContinualError, match="run: continual route"):
            ask()
