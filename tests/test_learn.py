"""The loop: its loss by hand, accumulation, every architecture, and Avalanche's own metrics on the same run."""

from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F

from continual.batch import Collate
from continual.chat import Chat
from continual.curriculum import benchmark
from continual.learn import CausalLMTemplate, Hyperparameters, learning_rate_factor
from continual.model import CausalLM, add_adapter
from continual.sample import Message, Sample

FAST = Hyperparameters(learning_rate=1e-2, num_train_epochs=1, tokens_per_batch=64)
LORA = {"r": 2, "lora_alpha": 4, "target_modules": "all-linear"}


def samples(task: str, answer: str, n: int = 8) -> list[Sample]:
    return [
        Sample(task, (Message("user", f"{task} {i}"), Message("assistant", answer)), (), (answer,)) for i in range(n)
    ]


def world(template: bool = False, cues: bool = False) -> tuple[Any, Collate]:
    chat = Chat(tiny.tokenizer(template))
    collate = Collate(chat.bos_ids, {0: chat.cue_ids("a"), 1: chat.cue_ids("b")} if cues else {}, chat.end_id)
    data = {t: dict.fromkeys(("train", "dev", "test"), samples(t, w)) for t, w in (("a", "red"), ("b", "blue"))}
    return benchmark(["a", "b"], data, chat, collate, 64, ("train", "test")), collate


@pytest.mark.parametrize("template", [False, True])
@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_every_architecture_learns_two_tasks(architecture: str, adapter: bool, template: bool) -> None:
    stream, collate = world(template)
    model = tiny.model(architecture)
    if adapter:
        model = add_adapter(model, LORA, seed=0)
    strategy = CausalLMTemplate(model=CausalLM(model), hyperparameters=FAST, seed=0, collate=collate)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses: list[float] = []
    for _ in range(3):
        for experience in stream.train_stream:
            strategy.train(experience, eval_streams=[])
        strategy.eval(stream.test_stream)
        x, y, _ = collate([{**stream.test_stream[1].dataset[0]}])
        with torch.no_grad():
            losses.append(float(F.cross_entropy(strategy.model(x), y)))
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert losses[-1] < losses[0]
    assert moved and (not adapter or all("lora_" in name for name in moved))


class Watch:
    """Collects what an Avalanche plugin sees after each backward pass."""

    def __init__(self) -> None:
        from avalanche.core import SupervisedPlugin

        class Plugin(SupervisedPlugin):
            def __init__(inner) -> None:
                super().__init__()
                inner.losses: list[float] = []
                inner.gradients: list[torch.Tensor] = []

            def after_backward(inner, strategy: Any, **kwargs: Any) -> None:
                inner.losses.append(float(strategy.loss.detach()))
                inner.gradients.append(next(strategy.model.parameters()).grad.clone())

        self.plugin = Plugin()


def first_step(hyperparameters: Hyperparameters, **more: Any) -> Watch:
    stream, collate = world(cues=True)
    watch = Watch()
    strategy = CausalLMTemplate(
        model=CausalLM(tiny.model().double()),
        hyperparameters=hyperparameters,
        seed=0,
        collate=collate,
        plugins=[watch.plugin],
        **more,
    )
    strategy.train(stream.train_stream[0], eval_streams=[])
    return watch


def test_the_loss_of_a_step_is_answer_loss_plus_lambda_times_sample_loss() -> None:
    # By hand: one sample with its cue; cross-entropy averaged over the answer, and over all that follows the cue.
    stream, collate = world(cues=True)
    rows = [{**stream.train_stream[0].dataset[i], "cue": i % 2 == 0} for i in range(8)]
    inner = tiny.model().double()
    answer_sum = cued_sum = answers = cued = 0.0
    for row in rows:
        cue = collate.cues[0] if row["cue"] else []
        ids = torch.tensor([[*cue, *row["input_ids"]]], dtype=torch.long)
        with torch.no_grad():
            ce = F.cross_entropy(inner(input_ids=ids).logits[0, :-1], ids[0, 1:], reduction="none")
        mask = torch.tensor([*[0] * len(cue), *row["answer"]])[1:].double()
        answer_sum, answers = answer_sum + float((ce * mask).sum()), answers + float(mask.sum())
        if cue:
            after = ce[len(cue) - 1 :]
            cued_sum, cued = cued_sum + float(after.sum()), cued + len(after)
    expected = answer_sum / answers + 0.3 * cued_sum / cued

    strategy = CausalLMTemplate(
        model=CausalLM(tiny.model().double()), hyperparameters=FAST, seed=0, collate=collate, lm_lambda=0.3
    )
    strategy.is_training = True
    strategy.mbatch = list(collate(rows))
    strategy.mb_output = strategy.forward()
    assert strategy.criterion().item() == pytest.approx(expected, rel=1e-6)


def test_accumulated_micro_batches_give_the_gradient_of_the_whole_step() -> None:
    rows = {"learning_rate": 0.0, "num_train_epochs": 1, "tokens_per_batch": None}
    whole = first_step(Hyperparameters(per_device_train_batch_size=8, **rows))
    parts = first_step(Hyperparameters(per_device_train_batch_size=2, gradient_accumulation_steps=4, **rows))
    assert len(whole.plugin.losses) == len(parts.plugin.losses) == 1  # hooks fire once per optimizer step
    assert parts.plugin.losses == pytest.approx(whole.plugin.losses, rel=1e-9)
    torch.testing.assert_close(parts.plugin.gradients[0], whole.plugin.gradients[0])


def test_the_schedule_warms_up_and_ends_at_zero() -> None:
    at = [learning_rate_factor(step, 10, 0.2, "linear") for step in range(11)]
    assert at[:3] == [0.5, 1.0, 1.0] and at[6] == pytest.approx(0.5) and at[10] == 0
    assert learning_rate_factor(6, 10, 0.2, "cosine") == pytest.approx(0.5)
    assert learning_rate_factor(9, 10, 0.2, "constant") == 1


def test_each_experience_gets_a_fresh_optimizer() -> None:
    stream, collate = world()
    strategy = CausalLMTemplate(model=CausalLM(tiny.model()), hyperparameters=FAST, seed=0, collate=collate)
    strategy.train(stream.train_stream[0], eval_streams=[])
    first = strategy.optimizer
    strategy.train(stream.train_stream[1], eval_streams=[])
    assert strategy.optimizer is not first
    steps = {int(state["step"]) for state in strategy.optimizer.state.values()}
    assert steps == {strategy.step}


def test_our_figures_agree_with_avalanches_own_on_the_same_run() -> None:
    from avalanche.evaluation.metrics import (
        accuracy_metrics,
        bwt_metrics,
        forgetting_metrics,
        forward_transfer_metrics,
    )
    from avalanche.training.plugins import EvaluationPlugin

    from continual import forgetting

    stream, collate = world()
    metrics = [accuracy_metrics(experience=True, stream=True)]
    metrics += [m(experience=True, stream=True) for m in (forgetting_metrics, bwt_metrics, forward_transfer_metrics)]
    strategy = CausalLMTemplate(
        model=CausalLM(tiny.model()),
        hyperparameters=Hyperparameters(learning_rate=2e-2, num_train_epochs=6, tokens_per_batch=64),
        seed=0,
        collate=collate,
        evaluator=EvaluationPlugin(*metrics, loggers=[]),
        eval_every=0,  # Avalanche's forward transfer asserts it
    )
    R: list[list[float | None]] = []
    for number in range(3):
        if number:
            strategy.train(stream.train_stream[number - 1], eval_streams=[])
        told = strategy.eval(stream.test_stream)
        R.append([told[f"Top1_Acc_Exp/eval_phase/test_stream/Exp{i:03d}"] for i in range(2)])
    assert R[1][0] > R[2][0]  # something was forgotten, or the comparison would be of zeros
    assert forgetting.bwt(R) == pytest.approx(told["StreamBWT/eval_phase/test_stream"])
    assert forgetting.forgetting(R) == pytest.approx(told["StreamForgetting/eval_phase/test_stream"])
    assert forgetting.fwt(R) == pytest.approx(told["StreamForwardTransfer/eval_phase/test_stream"])
