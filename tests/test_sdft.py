"""SDFT: its loss by hand, what teacher and student see, and that it goes on after a kill."""

import math
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from conftest import recipe, teach
from pydantic import ValidationError
from test_own_methods import PLACES, die_before
from test_resume import Killed, matrices

from continual.batch import Collate
from continual.catalogue import SDFTArguments
from continual.chat import Chat
from continual.methods.lesson import Lesson
from continual.methods.sdft import Reverse, SDFTPlugin
from continual.model import CausalLM
from continual.rehearse.teacher import weights_of
from continual.runs import read_json
from continual.sample import Message, Sample

ARGUMENTS: dict[str, Any] = {"max_new_tokens": 4, "demonstration": "{question} say {answer}"}
ARM: dict[str, Any] = {"sdft": {"method": "sdft", "method_args": ARGUMENTS}}
TRAINING = {"learning_rate": 1e-2, "num_train_epochs": 2, "tokens_per_batch": 128, "max_length": 64, "save_steps": 2}


def test_the_loss_is_the_reverse_divergence() -> None:
    student = torch.log(torch.tensor([[0.7, 0.2, 0.1], [0.25, 0.5, 0.25]]))
    teacher = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]))
    loss = Reverse(teacher).loss(student, torch.tensor([0, 1]), torch.tensor([2.0, 3.0]))
    by_hand = 2 * (0.7 * math.log(0.7 / 0.5) + 0.2 * math.log(0.2 / 0.25) + 0.1 * math.log(0.1 / 0.25))
    assert float(loss) == pytest.approx(by_hand, rel=1e-6)


def plugin(rows: list[Sample], max_length: int = 64, said: list[str] | None = None) -> SDFTPlugin:
    chat = Chat(tiny.tokenizer())
    collate = Collate(chat.bos_ids, {}, chat.end_id)
    arguments = SDFTArguments.model_validate(ARGUMENTS)
    say = (said if said is not None else []).append
    return SDFTPlugin(arguments, Lesson(["t"], {"t": 0}, {"t": rows}, chat, collate, max_length, None, Path(), 0, say))


class Strategy:
    """What the plugin asks of the loop."""

    class experience:
        current_experience = 0

    tutor: Any = None

    def __init__(self, inner: Any) -> None:
        self.lm = inner


ROWS = [Sample("t", (Message("user", "a dog"), Message("assistant", "red"))),
        Sample("t", (Message("user", "a big cat sees"), Message("assistant", "blue")))]  # fmt: skip


def test_the_teacher_sees_the_answer_and_speaks_of_the_students_own() -> None:
    sdft, inner = plugin(ROWS), tiny.model()
    strategy = Strategy(inner)
    sdft.after_train_dataset_adaptation(strategy)
    assert strategy.tutor is sdft
    chat, asked = sdft.lesson.chat, list(sdft._asked.values())
    assert chat.text(asked[0].student) == "User: a dog\nAI:"
    assert chat.text(asked[0].teacher) == "User: a dog say red\nAI:"
    # The student says words that stand nowhere in the data.
    answers = [[*chat.answer_ids("good"), chat.end_id], chat.answer_ids("bad small")]
    x, y, _ = sdft._written(list(zip(asked, answers, strict=True)))
    assert y.tolist() == [*answers[0], *answers[1]]
    sdft._teacher = {name: weight * 1.5 for name, weight in weights_of(inner).items()}
    model = CausalLM(inner)
    guide = sdft.guide(model, x)
    with torch.no_grad():
        for name, parameter in inner.named_parameters():
            parameter.copy_(sdft._teacher[name])
        expected = []
        for one, answer in zip(asked, answers, strict=True):
            ids = torch.tensor([one.teacher + answer])
            expected.append(inner(input_ids=ids).logits[0, len(one.teacher) - 1 : -1])
        student, weight = torch.randn(len(y), 300), torch.rand(len(y))
    for part in (slice(0, len(y)), slice(1, 4)):
        asked_for = Reverse(torch.cat(expected)[part]).loss(student[part], y[part], weight[part])
        torch.testing.assert_close(guide(part)(student[part], y[part], weight[part]), asked_for)


def test_a_demonstration_that_does_not_fit_is_told() -> None:
    said: list[str] = []
    plugin(ROWS, max_length=20, said=said).after_train_dataset_adaptation(Strategy(tiny.model()))
    assert len(said) == 1 and "sdft: 1 prompts of t do not fit" in said[0]


def test_the_teacher_follows_the_student_slowly() -> None:
    sdft, inner = plugin(ROWS), tiny.model()
    before = weights_of(inner)
    sdft._teacher = weights_of(inner)
    with torch.no_grad():
        for parameter in inner.parameters():
            parameter.add_(1.0)
    sdft.after_update(Strategy(inner))
    for name, weight in sdft._teacher.items():
        torch.testing.assert_close(weight, before[name] + 0.02)


@pytest.mark.parametrize("adapter", [{"r": 2, "lora_dropout": 0.2}, None])
def test_a_killed_run_ends_with_the_same_R(
    adapter: dict[str, Any] | None, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = {"sdft": {"method": "sdft", "method_args": {**ARGUMENTS, "alpha": 0.5}}}
    settings: dict[str, Any] = {"arms": arms, "adapter": adapter, "training": TRAINING}
    whole = teach(world, **settings, output_dir=str(world / "whole"))
    for place in PLACES[:3]:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            die_before(patch, place)
            teach(world, **settings)
    run = teach(world, **settings)
    assert matrices(run) == matrices(whole)
    weights = "arms/sdft/seed0/after/2/" + ("adapter_model.safetensors" if adapter else "model.safetensors")
    assert (run / weights).read_bytes() == (whole / weights).read_bytes()
    told = [read_json(folder / "arms/sdft/seed0/run.json")["cost"] for folder in (run, whole)]
    assert told[0]["generated_tokens"] == told[1]["generated_tokens"] > 0
    assert told[0]["train_tokens"] == told[1]["train_tokens"] > 0


def test_it_goes_with_any_start(world: Path) -> None:
    arms = {name: {**ARM["sdft"], "start_from": name} for name in ("previous", "merged")}
    arms["fresh"] = {**ARM["sdft"], "start_from": "base"}
    run = teach(world, arms=arms, adapter={"r": 2}, training={**TRAINING, "save_steps": None})
    ranks = [read_json(run / f"arms/{arm}/seed0/after/2/adapter_config.json")["r"] for arm in arms]
    assert ranks == [2, 4, 2]


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"method": "sdft", "rehearsal": {}}, "cannot be combined with `rehearsal`"),
        ({"method": "sdft", "method_args": {"demonstration": "{answer}"}}, "demonstration"),
    ],
)
def test_what_does_not_fit_is_refused(world: Path, arm: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        recipe(world, arms={"a": arm})
