"""What a teacher expected is kept beside the text: its loss by hand, found again by a row, never spoiled by a later
task."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from conftest import recipe, teach
from safetensors.torch import load_file

from continual import model as model_module
from continual.batch import Collate, LMBatch
from continual.chat import Chat
from continual.errors import ContinualError
from continual.methods import distill
from continual.methods.distill import AllLogits, DistillPlugin, Taught
from continual.model import CausalLM
from continual.rehearse import expected as module
from continual.rehearse import text
from continual.rehearse.expected import Likeliest, TargetStore
from continual.rehearse.teacher import teacher_logits
from continual.sample import Message, Sample


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_with_all_but_one_token_told_apart_it_is_the_whole_divergence(temperature: float) -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(2, 5, 20), torch.randn(5, 20)
    kept = Likeliest.of(teacher[0], temperature)
    whole = AllLogits(teacher[0]).divergence(student, temperature)
    torch.testing.assert_close(kept.divergence(student, temperature), whole)


def test_all_other_tokens_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIKELIEST", 1)
    teacher, student = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0.25, 0.05, 0.7]]).log()
    by_hand = 0.5 * torch.tensor(0.5 / 0.25).log() + 0.5 * torch.tensor(0.5 / 0.75).log()
    divergence = Likeliest.of(teacher, 1.0).divergence(student, 1.0)
    torch.testing.assert_close(divergence, by_hand[None])


CHAT = Chat(tiny.tokenizer())


def collate(passes: Any = "one") -> Collate:
    return Collate(CHAT.bos_ids, {n: CHAT.cue_ids("ab"[n]) for n in range(2)}, CHAT.end_id, passes)


def rows(label: int, texts: list[str], rehearsed: int = 1) -> list[dict[str, Any]]:
    found = []
    for question in texts:
        one = CHAT.encode(Sample("t", (Message("user", question), Message("assistant", "red"))), 40)
        marks = {"cue_key": label, "targets_task_labels": label, "rehearsed": rehearsed}
        found.append({"input_ids": one.input_ids, "answer": one.answer, "lead": one.lead, **marks})
    return found


def mixed(passes: Any, dogs: list[dict[str, Any]], cats: list[dict[str, Any]]) -> tuple[LMBatch, torch.Tensor]:
    """Real and rehearsed rows of two tasks, with and without their cues, padded together."""
    cues = [True, False, False, True, True]
    picked = [dogs[1], cats[0], *rows(1, ["a real row"], 0), cats[1], dogs[0]]
    x, y, _ = collate(passes)([{**row, "cue": cue} for row, cue in zip(picked, cues, strict=True)])
    return x, y


@pytest.mark.parametrize("passes", ["one", "two"])
def test_a_row_finds_what_was_expected_of_it_when_it_was_written(
    passes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIKELIEST", 1000)  # all of them
    monkeypatch.setattr(module, "PASS", 40)  # of one row, or two
    model = CausalLM(tiny.model())
    monkeypatch.setattr(model_module, "CHUNK", 3 * model.inner.config.vocab_size)
    dogs, cats = rows(0, ["a dog", "a dog and a hen"]), rows(1, ["a dog", "the cat"])
    store = TargetStore(collate(passes), 2.0)
    x, y = mixed(passes, dogs, cats)
    told = x.rehearsed > 0
    first = teacher_logits(model, x, {})(slice(0, len(y)))
    store.take(model, dogs, tmp_path / "1-dogs.safetensors", ask=True)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter))
    store.take(model, dogs, tmp_path / "1-dogs.safetensors", ask=False)
    store.take(model, cats, tmp_path / "2-cats.safetensors", ask=True)
    later = teacher_logits(model, x, {})(slice(0, len(y)))
    expected = torch.where((x.rehearsed == 1)[:, None], first, later)[told]
    student, weight = torch.randn(len(y), expected.shape[1]), torch.rand(len(y))
    by_hand = Taught(told, AllLogits(expected), 0.5, 2.0).loss(student, y, weight)
    loss_of = DistillPlugin(0.5, 2.0, store, {}).guide(model, x)
    near = {"rtol": 2e-3, "atol": 1e-3}  # half precision on disk
    torch.testing.assert_close(loss_of(slice(0, len(y)))(student, y, weight), by_hand, **near)
    parts = [slice(start, start + 4) for start in range(0, len(y), 4)]
    in_parts = sum(loss_of(part)(student[part], y[part], weight[part]) for part in parts)
    torch.testing.assert_close(in_parts, by_hand, **near)
    assert not torch.allclose(first, later, rtol=0.1, atol=0.1)


def test_what_nobody_can_be_asked_any_more_is_an_error(tmp_path: Path) -> None:
    model, store, path = CausalLM(tiny.model()), TargetStore(collate(), 2.0), tmp_path / "1-dogs.safetensors"
    with pytest.raises(ContinualError, match=r"1-dogs\.safetensors: is not there"):
        store.take(model, rows(0, ["a dog"]), path, ask=False)
    store.take(model, rows(0, ["a dog"]), path, ask=True)
    with pytest.raises(ContinualError, match="does not belong to the samples"):
        store.take(model, rows(0, ["a dog", "a cat"]), path, ask=False)


@pytest.mark.parametrize("adapter", [None, {"r": 2}])
def test_by_default_the_third_task_is_taught_what_the_first_model_expected(
    adapter: Any, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The second task spoils the model; what is rehearsed of the first in the third must not hear of that.
    guided: dict[int, list[torch.Tensor]] = {}
    guide = DistillPlugin.guide

    def listening(self: Any, model: Any, x: Any) -> Any:
        taught = guide(self, model, x)(slice(0, len(x.answer)))
        for label in {int(mark) for mark in x.rehearsed} - {0}:
            part = taught.__self__.expected.logprobs[x.rehearsed[x.rehearsed > 0] == label]
            guided.setdefault(label, []).append(part)
        return guide(self, model, x)

    monkeypatch.setattr(distill.DistillPlugin, "guide", listening)
    tasks = {"curriculum": ["sound", "legs", "first"], "adapter": adapter}
    told = {"ratio": 0.2, "writer": "real"}  # a model this small hardly writes what passes
    run = teach(world, arms={"a": {"rehearsal": told}}, **tasks)
    folder = run / "arms/a/seed0/rehearsed"
    files = sorted(path.name for path in folder.iterdir())
    assert files == ["2-sound.jsonl", "2-sound.safetensors", "3-legs.jsonl", "3-legs.safetensors"]
    kept = load_file(folder / "2-sound.safetensors")["logprobs"].float().log_softmax(-1)
    lines = {tuple(line.tolist()) for line in kept}
    assert text.load(folder / "2-sound.jsonl") and len(lines) > 10
    assert all(tuple(line.tolist()) in lines for part in guided[1] for line in part)
    assert recipe(world, arms={"a": {"rehearsal": {}}}).arms["a"].rehearsal.distill.teacher == "at_writing"
