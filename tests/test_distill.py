"""Distillation on rehearsed samples: its loss by hand, whose weights teach, and what the loop makes of it."""

import math
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from conftest import teach

from continual import crossentropy
from continual import model as model_module
from continual.batch import Collate
from continual.chat import Chat
from continual.errors import ContinualError
from continual.methods.distill import AllLogits, DistillPlugin, Taught
from continual.model import CausalLM, add_adapter
from continual.rehearse.teacher import Newest, Weights, adapter_weights, teacher_logits, wearing, weights_of
from continual.runs import read_json
from continual.sample import Message, Sample


def test_the_loss_of_a_position_mixes_token_and_teacher() -> None:
    # Two positions over three tokens; only the second is rehearsed. Teacher: probabilities 1/2, 1/4, 1/4.
    student = torch.log(torch.tensor([[0.7, 0.2, 0.1], [0.25, 0.5, 0.25]]))
    teacher = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
    taught = Taught(torch.tensor([False, True]), AllLogits(teacher), weight=0.75, temperature=1.0)
    loss = taught.loss(student, torch.tensor([0, 1]), torch.tensor([1.0, 2.0]))
    divergence = 0.5 * math.log(0.5 / 0.25) + 0.25 * math.log(0.25 / 0.5) + 0.25 * math.log(0.25 / 0.25)
    by_hand = -math.log(0.7) + 2.0 * (0.25 * -math.log(0.5) + 0.75 * divergence)
    assert float(loss) == pytest.approx(by_hand, rel=1e-6)


def test_temperature_softens_both_and_scales_back() -> None:
    z_student, z_teacher = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    taught = Taught(torch.tensor([True]), AllLogits(z_teacher), weight=1.0, temperature=2.0)
    p, q = 1 / (1 + math.e), 1 / (1 + math.exp(-1))  # of token 0: teacher, student, at T = 2
    by_hand = 4 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    assert float(taught.loss(z_student, torch.tensor([0]), torch.ones(1))) == pytest.approx(by_hand, rel=1e-5)


def batch(rehearsed: list[int]) -> Any:
    chat = Chat(tiny.tokenizer())
    collate = Collate(chat.bos_ids, {}, chat.end_id)
    rows = []
    for n, mark in enumerate(rehearsed):
        one = chat.encode(Sample("t", (Message("user", "a dog" * (n + 1)), Message("assistant", "red"))), 40)
        row = {"input_ids": one.input_ids, "answer": one.answer, "cue_key": n}
        rows.append({**row, "targets_task_labels": n, "rehearsed": mark})
    return collate(rows)


def test_a_batch_marks_rehearsed_positions_with_their_task() -> None:
    x, y, t = batch([0, 1, 1])
    assert [int(mark) for mark in x.rehearsed] == [0 if label == 0 else 1 + int(label) for label in t]


@pytest.mark.parametrize("adapter", [False, True])
def test_the_teacher_is_the_model_as_it_was(adapter: bool) -> None:
    inner = tiny.model()
    model = CausalLM(add_adapter(inner, {"r": 2, "target_modules": "all-linear"}, 0) if adapter else inner)
    x, y, _ = batch([0, 1])
    before = weights_of(model.inner)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) if parameter.ndim else 1.0)
        moved = model(x).clone()
        with wearing(model.inner, before):
            worn = model(x).clone()
    plugin = DistillPlugin(1.0, 1.0, Newest(), {0: "a", 1: "b"})
    plugin._before = before
    weight = torch.rand(len(y))
    loss = plugin.guide(model, x)(slice(0, len(y)))(moved, y, weight)
    told = x.rehearsed > 0
    assert told.any() and not told.all()
    torch.testing.assert_close(loss, Taught(told, AllLogits(worn[told]), 1.0, 1.0).loss(moved, y, weight))
    assert torch.equal(model(x), moved)  # the student's weights are back
    assert not torch.allclose(worn, moved)


def test_where_nothing_is_rehearsed_nobody_is_asked() -> None:
    guide = DistillPlugin(1.0, 1.0, Newest(), {}).guide(CausalLM(tiny.model()), batch([0, 0])[0])
    assert guide is crossentropy.plain


def test_an_unknown_specialist_is_an_error_and_never_the_base(tmp_path: Path) -> None:
    model = add_adapter(tiny.model(), {"r": 2, "target_modules": "all-linear"}, 0)
    with pytest.raises(ContinualError, match="there is no specialist"):
        adapter_weights(model, tmp_path)
    model.save_pretrained(tmp_path / "two")
    assert set(adapter_weights(model, tmp_path / "two")) == set(weights_of(model))
    other = add_adapter(tiny.model(), {"r": 4, "target_modules": "all-linear"}, 0)
    with pytest.raises(ContinualError, match="shape"):
        adapter_weights(other, tmp_path / "two")


def test_a_student_that_is_its_teacher_stays_where_it_is(world: Path) -> None:
    # At the first step student and teacher are one: on rehearsed rows alone there is then no gradient.
    model = CausalLM(tiny.model())
    x, y, _ = batch([1, 1])
    plugin = DistillPlugin(1.0, 1.0, Newest(), {0: "a", 1: "b"})
    plugin._before = weights_of(model.inner)
    loss = model(x, y, torch.ones(len(y)), plugin.guide(model, x))
    loss.backward()
    assert max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None) < 1e-5
    assert float(crossentropy.weighted(model(x), y, torch.ones(len(y)))) > 1


class Two:
    """A teacher for each of two tasks."""

    def __init__(self, one: Weights, other: Weights) -> None:
        self.known = {"a": one, "b": other}

    def of(self, model: Any, task: str) -> Weights:
        return self.known[task]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("teachers", ["newest", "two"])
def test_distilled_in_chunks_it_is_what_it_is_at_once(
    teachers: str, adapter: bool, precision: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tiny.model()
    model = CausalLM(add_adapter(inner, {"r": 2, "target_modules": "all-linear"}, 0) if adapter else inner)
    x, y, _ = batch([0, 1, 1, 0, 1, 1])
    weight = torch.rand(len(y), generator=torch.Generator().manual_seed(0))
    own = weights_of(model.inner)
    one, other = ({name: w + 0.3 * torch.randn_like(w) for name, w in own.items()} for _ in range(2))
    plugin = DistillPlugin(
        0.7, 2.0, Newest() if teachers == "newest" else Two(one, other), {n: "ab"[n % 2] for n in range(6)}
    )
    plugin._before = one if teachers == "newest" else None

    def learned() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            loss = model(x, y, weight, plugin.guide(model, x))
        loss.backward()
        return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    at_once = learned()
    monkeypatch.setattr(model_module, "CHUNK", 3 * inner.config.vocab_size)
    seen: list[int] = []
    inner.get_output_embeddings().register_forward_hook(lambda _, args, output: seen.append(output.shape[1]))
    in_chunks = learned()
    assert max(seen) <= 3 < len(y)
    near = {"atol": 1e-5, "rtol": 1e-4} if precision == torch.float32 else {"atol": 3e-2, "rtol": 3e-2}
    torch.testing.assert_close(in_chunks, at_once, **near)
    assert all(torch.equal(p, own[name]) for name, p in model.inner.named_parameters() if name in own)


def test_in_mixed_precision_the_teacher_computes_with_its_own_weights() -> None:
    model = CausalLM(tiny.model())
    x, y, _ = batch([1])
    other = {name: torch.randn_like(w) for name, w in weights_of(model.inner).items()}
    with torch.autocast("cpu", torch.bfloat16):
        student = model(x)  # autocast now holds its weights in bfloat16
        told = teacher_logits(model, x, other)(slice(0, len(y)))
        again = model(x)
    with wearing(model.inner, other), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(told, model(x))
    assert torch.equal(again, student) and not torch.allclose(told, student)


def test_specialists_write_answer_and_teach(world: Path) -> None:
    arms = {
        "specialists": {"teach": "specialists", "rehearsal": {}},
        "taught": {
            "rehearsal": {
                "writer": "specialist",
                "relabel": "specialist",
                "distill": {"teacher": "specialist"},
                "checks": ["parses"],
            }
        },
        "newest": {
            "rehearsal": {"distill": {"weight": 0.5, "teacher": "model"}, "when": "after_task", "checks": ["parses"]}
        },
    }
    run = teach(world, arms=arms, curriculum=["sound", "legs", "first"], adapter={"r": 2})
    told = read_json(run / "arms/taught/seed0/run.json")
    assert [e["task"] for e in told["rehearsed"]] == ["sound", "sound", "legs"]
    assert told["cost"]["real_rows_kept"] == 0
    files = sorted(path.name for path in (run / "arms/newest/seed0/rehearsed").glob("*"))
    assert files == ["2-sound.jsonl", "3-legs.jsonl"]  # each task once, right after it was learnt
    assert len(read_json(run / "arms/newest/seed0/run.json")["R"]) == 4
