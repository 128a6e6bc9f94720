"""Avalanche's methods against the same thing computed by hand, on a tiny model and two tasks that contradict."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F

from continual.avalanche_settings import Agem, Ewc, Lwf, Mas, OnlineEwc, Replay, RWalk, SynapticIntelligence
from continual.batch import Collate
from continual.chat import Chat
from continual.curriculum import benchmark
from continual.errors import ContinualError
from continual.learn import CausalLMTemplate, Hyperparameters
from continual.methods import agem, ewc, lwf, mas, replay, rwalk, si
from continual.methods.lesson import Lesson
from continual.model import CausalLM
from continual.plugin import LossPlugin
from continual.sample import Message, Sample

SETTINGS = Hyperparameters(learning_rate=1e-2, num_train_epochs=2, tokens_per_batch=64, warmup_ratio=0.0)
ANSWERS = {"a": "red", "b": "blue blue", "c": "good"}

Weights = dict[str, torch.Tensor]


def lesson(n: int = 8) -> Lesson:
    """Three tasks with the same questions and other answers."""
    chat = Chat(tiny.tokenizer())
    samples = {
        t: [Sample(t, (Message("user", f"say {i}"), Message("assistant", word)), (), (word,)) for i in range(n)]
        for t, word in ANSWERS.items()
    }
    labels = {task: label for label, task in enumerate(ANSWERS)}
    collate = Collate(chat.bos_ids, {}, chat.end_id)
    return Lesson(tuple(ANSWERS), labels, samples, chat, collate, 64, None, Path(), 7, lambda line: None)


class Probe(LossPlugin):
    """Notes something at one of Avalanche's hooks."""

    def __init__(self, hook: str, note: Callable[[Any], Any]) -> None:
        super().__init__()
        self.seen: list[Any] = []
        setattr(self, hook, lambda strategy, **kwargs: self.seen.append(note(strategy)))


def weights(strategy: Any) -> Weights:
    return {name: p.detach().clone() for name, p in strategy.model.named_parameters()}


def gradient(strategy: Any) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for _, p in strategy.model.named_parameters()]).clone()


def loss(strategy: Any) -> float:
    return float(strategy.loss.detach())


def school(told: Lesson, plugins: Sequence[Any], **more: Any) -> tuple[CausalLMTemplate, Any]:
    """A strategy with some plugins, and the tasks as Avalanche's stream."""
    data = {task: {"train": samples} for task, samples in told.samples.items()}
    stream = benchmark(told.order, data, told.chat, told.collate, told.max_length).train_stream
    strategy = CausalLMTemplate(
        model=CausalLM(tiny.model()),
        **{"hyperparameters": SETTINGS, "seed": 0, "collate": told.collate, "plugins": plugins, **more},
    )
    return strategy, stream


def of_single_rows(told: Lesson, task: int, model: Any, score: Callable[[Any, Any], torch.Tensor]) -> list[Weights]:
    """The gradient of each row's score, given its logits (N, vocab) and next tokens (N,), by plain transformers."""
    found = []
    for sample in told.samples[told.order[task]]:
        one = told.chat.encode(sample, 64)
        ids = torch.tensor([[*told.chat.bos_ids, *one.input_ids]])
        answer = torch.tensor([*[0] * len(told.chat.bos_ids), *one.answer])[1:].bool()
        model.zero_grad()
        score(model.inner(input_ids=ids).logits[0, :-1][answer], ids[0, 1:][answer]).backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters()})
    return found


def mean(rows: list[Weights], of: Callable[[torch.Tensor], torch.Tensor]) -> Weights:
    return {name: torch.stack([of(row[name]) for row in rows]).mean(0) for name in rows[0]}


def fisher(told: Lesson, task: int, model: Any) -> Weights:
    score = lambda logits, y: F.cross_entropy(logits, y, reduction="sum")  # noqa: E731
    return mean(of_single_rows(told, task, model, score), torch.square)


def held(importance: Weights, now: Weights, anchor: Weights) -> float:
    return sum(float((importance[name] * (now[name] - anchor[name]) ** 2).sum()) for name in now)


def close(found: Any, expected: Weights) -> None:
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name].data, tensor, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("online", [False, True])
def test_ewc_adds_the_fisher_weighted_way_from_each_earlier_task(online: bool) -> None:
    told = lesson()
    arguments: Ewc = OnlineEwc(**{"lambda": 5, "decay_factor": 0.5}) if online else Ewc(**{"lambda": 5})
    method = ewc.build(arguments, told)
    before, after = Probe("before_backward", loss), Probe("before_backward", loss)
    where = Probe("before_backward", weights)
    strategy, stream = school(told, [before, method, after, where])
    anchors, fishers = [], []
    for number in range(2):
        strategy.train(stream[number], eval_streams=[])
        anchors.append(weights(strategy))
        fishers.append(fisher(told, number, strategy.model))
    strategy.train(stream[2], eval_streams=[])
    by_hand = 0.0
    if online:
        joined = {name: 0.5 * fishers[0][name] + fishers[1][name] for name in fishers[0]}
        by_hand = held(joined, where.seen[-1], anchors[1])
    else:
        close(method.importances[0], fishers[0])
        by_hand = sum(held(f, where.seen[-1], anchor) for f, anchor in zip(fishers, anchors, strict=True))
    assert by_hand > 1e-4
    assert after.seen[-1] - before.seen[-1] == pytest.approx(5 * by_hand, rel=1e-2)


def test_mas_adds_the_way_from_the_newest_task_weighted_by_what_the_logits_hang_on() -> None:
    told = lesson()
    method = mas.build(Mas(**{"lambda": 2, "alpha": 0.25}), told)
    before, after = Probe("before_backward", loss), Probe("before_backward", loss)
    where = Probe("before_backward", weights)
    strategy, stream = school(told, [before, method, after, where])
    importances = []
    for number in range(2):
        strategy.train(stream[number], eval_streams=[])
        score = lambda logits, y: logits.pow(2).sum(1).mean()  # noqa: E731
        importances.append(mean(of_single_rows(told, number, strategy.model, score), torch.abs))
        anchor = weights(strategy)
    joined = {name: 0.25 * importances[0][name] + 0.75 * importances[1][name] for name in anchor}
    close(method.importance, joined)
    strategy.train(stream[2], eval_streams=[])
    by_hand = held(joined, where.seen[-1], anchor)
    assert by_hand > 1e-3
    assert after.seen[-1] - before.seen[-1] == pytest.approx(2 * by_hand, rel=1e-2)


def test_agem_takes_out_what_would_raise_the_loss_on_its_memory() -> None:
    told = lesson()
    method = agem.build(Agem(patterns_per_experience=5, sample_size=4), told)
    before, after = Probe("after_backward", gradient), Probe("after_backward", gradient)

    def reference(strategy: Any) -> torch.Tensor:
        x, y, _ = method.sample_from_memory()
        strategy.optimizer.zero_grad()
        F.cross_entropy(strategy.model(x), y).backward()
        found = gradient(strategy)
        strategy.optimizer.zero_grad()
        return found

    longer = Hyperparameters(2e-2, 10, 64, warmup_ratio=0.0)
    strategy, stream = school(told, [before, method, after], hyperparameters=longer)
    strategy.train(stream[0], eval_streams=[])
    of_memory = Probe("before_forward", reference)
    strategy.plugins.insert(0, of_memory)
    del before.seen[:], after.seen[:]
    strategy.train(stream[1], eval_streams=[])
    turned = 0
    for g, r, found in zip(before.seen, of_memory.seen, after.seen, strict=True):
        apart = float(g @ r) < 0
        turned += apart
        torch.testing.assert_close(found, g - (g @ r) / (r @ r) * r if apart else g, rtol=1e-3, atol=1e-6)
    assert 0 < turned < len(before.seen)


def test_si_follows_the_way_of_each_weight() -> None:
    told = lesson()
    method = si.build(SynapticIntelligence(**{"lambda": 3, "eps": 1e-3}), told)
    start, end = Probe("before_training_iteration", weights), Probe("after_training_iteration", weights)
    slope = Probe("after_training_iteration", gradient)
    before, after = Probe("before_backward", loss), Probe("before_backward", loss)
    where = Probe("before_backward", weights)
    strategy, stream = school(told, [start, before, method, after, end, slope, where])
    strategy.train(stream[0], eval_streams=[])
    flat = [torch.cat([w.flatten() for w in ws.values()]) for ws in (*start.seen, *end.seen)]
    starts, ends = flat[: len(start.seen)], flat[len(start.seen) :]
    way = sum(g * (b - a) for g, a, b in zip(slope.seen, starts, ends, strict=True))
    importance = torch.clamp(-way / ((ends[-1] - starts[0]) ** 2 + 1e-3), max=0.001)
    assert float(importance.max()) > 0
    strategy.train(stream[1], eval_streams=[])
    now = torch.cat([w.flatten() for w in where.seen[-1].values()])
    by_hand = 3 / 2 * float((importance * (now - ends[-1]) ** 2).sum())
    assert after.seen[-1] - before.seen[-1] == pytest.approx(by_hand, rel=2e-2, abs=1e-6)
    assert after.seen[-1] != before.seen[-1]


def test_rwalk_sees_the_whole_step_and_leaves_dropout_on() -> None:
    told = lesson()
    method = rwalk.build(RWalk(delta_t=1), told)
    seen = Probe(
        "before_forward", lambda s: (s.model.training, {k: v.data.clone() for k, v in method.iter_grad.items()})
    )
    plain = Probe("after_backward", gradient)
    rows = Hyperparameters(1e-2, 1, None, 2, 4)  # micro-batches of two rows
    strategy, stream = school(told, [method, seen, plain], hyperparameters=rows)
    strategy.train(stream[0], eval_streams=[])
    for (training, own), g in zip(seen.seen, plain.seen, strict=True):
        assert training
        # In the first task there is no penalty: the gradient is that of the loss.
        torch.testing.assert_close(torch.cat([v.flatten() for v in own.values()]), g, rtol=1e-3, atol=1e-7)


def test_rwalk_refuses_a_first_task_that_ends_before_its_first_score() -> None:
    told = lesson()
    strategy, stream = school(told, [rwalk.build(RWalk(delta_t=1000), told)])
    with pytest.raises(ContinualError, match=r"method_args\.delta_t: the first task takes \d+ steps"):
        strategy.train(stream[0], eval_streams=[])


def test_lwf_adds_the_divergence_from_the_model_before_the_task() -> None:
    told = lesson()
    method = lwf.build(Lwf(alpha=0.5, temperature=2), told)
    before, after = Probe("before_backward", loss), Probe("before_backward", loss)
    batch = Probe("before_backward", lambda s: (s.mb_x, s.mb_output.detach().clone()))
    strategy, stream = school(told, [before, method, after, batch])
    strategy.train(stream[0], eval_streams=[])
    teacher = CausalLM(tiny.model())
    teacher.load_state_dict(strategy.model.state_dict())
    strategy.train(stream[1], eval_streams=[])
    x, logits = batch.seen[-1]
    assert not x.earlier  # the whole step in one forward pass
    with torch.no_grad():
        p = (teacher(x) / 2).softmax(-1)
    divergence = (p * (p.log() - (logits / 2).log_softmax(-1))).sum(-1).mean()
    assert float(divergence) > 1e-3
    assert after.seen[-1] - before.seen[-1] == pytest.approx(0.5 * float(divergence), rel=1e-3)


def test_replay_mixes_a_random_sample_of_all_earlier_rows() -> None:
    told = lesson(20)
    method = replay.build(Replay(mem_size=10), told)
    rows = Probe("before_training_epoch", lambda s: [int(t) for t in s.adapted_dataset.targets_task_labels])
    strategy, stream = school(told, [method, rows])
    kept = []
    for experience in stream:
        strategy.train(experience, eval_streams=[])
        kept.append({entry["task"]: entry["rows"] for entry in method.kept})
    first, second, third = rows.seen[0], rows.seen[2], rows.seen[4]
    assert (len(first), len(second), len(third)) == (20, 30, 30)
    assert second.count(0) == 10 and third.count(0) + third.count(1) == 10 and third.count(2) == 20
    assert kept == [{}, {"a": 10}, {"a": third.count(0), "b": third.count(1)}]
    assert 0 < third.count(0) < 10


def test_a_memory_is_drawn_again_from_the_seed() -> None:
    told = lesson(20)
    for build, arguments in ((agem.build, Agem(patterns_per_experience=3, sample_size=6)), (replay.build, Replay())):
        method: Any = build(arguments, told)  # type: ignore[operator]
        strategy, stream = school(told, [method])
        for experience in list(stream)[:2]:
            strategy.train(experience, eval_streams=[])
        again: Any = build(arguments, told)  # type: ignore[operator]
        again.load_state_dict(method.state_dict())
        stores = [m.buffers if build is agem.build else [m.storage_policy.buffer] for m in (method, again)]
        for old, new in zip(*stores, strict=True):
            assert [list(row["input_ids"]) for row in old] == [list(row["input_ids"]) for row in new]


def test_agem_needs_a_row_of_each_task() -> None:
    with pytest.raises(ContinualError, match=r"method_args\.sample_size: 2 rows are less than one of each of 3"):
        agem.build(Agem(sample_size=2), lesson())
