"""What saves memory leaves the gradient as it is: chunked loss, smaller micro-batches, activations computed again."""

import logging
import os
from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from avalanche.core import SupervisedPlugin
from test_learn import LORA, world

from continual import model as model_module
from continual.batch import Collate, LMBatch
from continual.errors import ContinualError
from continual.learn import CausalLMTemplate, Hyperparameters
from continual.model import CausalLM, add_adapter, check_compiler, checkpoint_activations, compiled
from continual.plugin import LossPlugin

ROWS = [
    {
        "input_ids": list(range(10, 10 + n)),
        "answer": [0] * 3 + [1] * (n - 3),
        "targets_task_labels": 0,
        "cue_key": 0,
        "rehearsed": 0,
    }
    for n in (5, 9, 30, 17)
]
TWO_STEPS = Hyperparameters(
    learning_rate=1e-2, num_train_epochs=2, tokens_per_batch=None, per_device_train_batch_size=8
)


def facade(architecture: str, adapter: bool) -> CausalLM:
    inner = tiny.model(architecture)
    if adapter:
        inner = add_adapter(inner, {**LORA, "init_lora_weights": False}, seed=0)
    return CausalLM(inner.train())


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES + tiny.MORE_ARCHITECTURES)
def test_chunks_give_loss_and_gradients_of_the_whole(
    architecture: str, adapter: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = facade(architecture, adapter)
    x, y, _ = Collate([], {}, 0)(ROWS)
    weight = torch.rand(len(y), generator=torch.Generator().manual_seed(0)) / len(y)
    whole = lm(x, y, weight)
    expected = gradients(lm, 3 * whole)
    # Seven positions at a time.
    monkeypatch.setattr(model_module, "CHUNK", 7 * lm.inner.config.vocab_size)
    seen = most_logits(lm)
    loss = lm(x, y, weight)
    found = gradients(lm, 3 * loss)
    assert max(seen) <= 7 < len(y)
    torch.testing.assert_close(loss, whole, atol=1e-5, rtol=1e-5)
    assert found.keys() == expected.keys() and any(bool(g.any()) for g in found.values())
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(lm(x, y, weight), whole, atol=1e-5, rtol=1e-5)


def most_logits(lm: CausalLM) -> list[int]:
    """Filled with the number of positions each time that logits are computed."""
    seen: list[int] = []
    lm.inner.get_output_embeddings().register_forward_hook(lambda _, args, output: seen.append(output.shape[1]))
    return seen


def test_a_model_whose_logits_do_not_come_row_by_row_is_not_chunked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lm = facade("llama", False)
    x, y, _ = Collate([], {}, 0)(ROWS)
    weight = torch.ones(len(y))
    whole = lm(x, y, weight)
    head = lm.inner.get_output_embeddings()
    # Logits that depend on how many there are.
    head.register_forward_hook(lambda _, args, output: output * output.shape[1])
    expected = lm(x, y, weight)
    monkeypatch.setattr(model_module, "CHUNK", 7 * lm.inner.config.vocab_size)
    lm.inner.get_decoder().register_forward_hook(shift)
    assert expected != whole and "cannot be computed in chunks" not in caplog.text
    lm(x, y, weight)
    assert "cannot be computed in chunks" in caplog.text


def shift(module: Any, args: Any, output: Any) -> None:
    """Something that only the decoder's caller sees, as where hidden states are changed on the way."""
    output.last_hidden_state = output.last_hidden_state + 1


class Dimensions:
    ndim: int | None = None

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        self.ndim = strategy.mb_output.ndim


class Quiet(Dimensions, LossPlugin):
    pass


class Curious(Dimensions, SupervisedPlugin):
    pass


@pytest.mark.parametrize(("plugin", "ndim"), [(Quiet(), 0), (Curious(), 2)])
def test_logits_are_kept_for_plugins_that_may_read_them(plugin: Any, ndim: int) -> None:
    stream, collate = world()
    strategy = CausalLMTemplate(
        model=CausalLM(tiny.model()), hyperparameters=TWO_STEPS, seed=0, collate=collate, plugins=[plugin]
    )
    strategy.train(stream.train_stream[0], eval_streams=[])
    assert plugin.ndim == ndim


def test_logits_are_kept_for_metrics() -> None:
    from avalanche.evaluation.metrics import accuracy_metrics
    from avalanche.training.plugins import EvaluationPlugin

    stream, collate = world()
    strategy = CausalLMTemplate(
        model=CausalLM(tiny.model()),
        hyperparameters=TWO_STEPS,
        seed=0,
        collate=collate,
        plugins=[quiet := Quiet()],
        evaluator=EvaluationPlugin(accuracy_metrics(minibatch=True), loggers=[]),
    )
    strategy.train(stream.train_stream[0], eval_streams=[])
    assert quiet.ndim == 2 and any(name.startswith("Top1_Acc_MB") for name in strategy.evaluator.get_last_metrics())


class OutOfMemoryInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor) -> torch.Tensor:
        return logits.clone()

    @staticmethod
    def backward(ctx: Any, *above: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("made up")


class Small(CausalLM):
    """A model for which only so many rows are room."""

    room = 1000
    in_backward = False

    def _logits(self, x: LMBatch) -> torch.Tensor:
        if len(x) > self.room and not self.in_backward:
            raise torch.OutOfMemoryError("made up")
        logits = super()._logits(x)
        return OutOfMemoryInBackward.apply(logits) if len(x) > self.room else logits


class Gradients(LossPlugin):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []
        self.rows: list[list[int]] = []
        self.losses: list[float] = []

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        self.seen.append(torch.cat([p.grad.flatten() for p in strategy.model.parameters()]))
        self.rows.append([len(batch) for batch in strategy.mb_x.step])
        self.losses.append(float(strategy.loss.detach()))


def taught(
    room: int, hyperparameters: Hyperparameters = TWO_STEPS, tasks: int = 1, **attributes: Any
) -> tuple[CausalLMTemplate, Gradients]:
    stream, collate = world(cues=True)
    lm = Small(tiny.model().double())
    lm.room, lm.in_backward = room, attributes.pop("in_backward", False)
    watch = Gradients()
    strategy = CausalLMTemplate(model=lm, hyperparameters=hyperparameters, seed=0, collate=collate, plugins=[watch])
    for name, value in attributes.items():
        setattr(strategy, name, value)
    for lesson in stream.train_stream[:tasks]:
        strategy.train(lesson, eval_streams=[])
    return strategy, watch


TOKENS = Hyperparameters(learning_rate=1e-2, num_train_epochs=2, tokens_per_batch=100)


@pytest.mark.parametrize("in_backward", [False, True])
@pytest.mark.parametrize("hyperparameters", [TWO_STEPS, TOKENS], ids=["rows", "tokens"])
def test_where_memory_is_short_smaller_micro_batches_give_the_same_weights(
    hyperparameters: Hyperparameters, in_backward: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    roomy, expected = taught(1000, hyperparameters)
    assert "out of memory" not in caplog.text
    narrow, found = taught(3, hyperparameters, in_backward=in_backward)
    assert max(map(max, expected.rows)) > 3 >= max(map(max, found.rows))
    assert [sum(rows) for rows in found.rows] == [sum(rows) for rows in expected.rows]
    torch.testing.assert_close(found.seen, expected.seen, atol=1e-6, rtol=1e-6)
    assert found.losses == pytest.approx(expected.losses, rel=1e-6)
    assert narrow.train_tokens == roomy.train_tokens
    for one, two in zip(narrow.model.parameters(), roomy.model.parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-6)
    assert caplog.text.count("out of memory") == 1


def test_the_next_task_starts_with_whole_micro_batches_again(caplog: pytest.LogCaptureFixture) -> None:
    taught(3, tasks=2)
    assert caplog.text.count("out of memory") == 2


def test_a_single_row_that_does_not_fit_is_told_with_what_to_lower() -> None:
    with pytest.raises(ContinualError, match=r"training.max_length: out of memory with a single row of \d+ tokens"):
        taught(0)


def test_a_step_that_a_plugin_needs_whole_is_not_cut() -> None:
    with pytest.raises(ContinualError, match="training.tokens_per_batch: .*needs each batch whole"):
        taught(3, TOKENS, one_forward=True)


def test_halvings_are_part_of_a_checkpoint(tmp_path: Any) -> None:
    from continual.checkpoint import restore, store

    strategy, _ = taught(3)
    store(tmp_path, strategy, [])
    halvings, strategy.halvings = strategy.halvings, 0
    restore(tmp_path, strategy, [])
    assert strategy.halvings == halvings > 0


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_activations_computed_again_give_the_same_gradient(architecture: str, adapter: bool) -> None:
    x, y, _ = Collate([], {}, 0)(ROWS)
    weight = torch.ones(len(y))

    def run(prepare: Callable[[Any], None]) -> tuple[dict[str, torch.Tensor], int]:
        lm = facade(architecture, adapter)
        prepare(lm.inner)
        calls: list[int] = []
        for name, module in lm.named_modules():
            if name.endswith(".mlp"):
                module.register_forward_pre_hook(lambda *_: calls.append(1))
        return gradients(lm, lm(x, y, weight)), len(calls)

    kept, once = run(lambda inner: None)
    again, twice = run(checkpoint_activations)
    assert twice == 2 * once
    torch.testing.assert_close(again, kept)


def test_an_architecture_without_checkpointing_is_named() -> None:
    class Plain(torch.nn.Module):
        def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
            raise ValueError("Plain is not compatible with gradient checkpointing. More.")

    with pytest.raises(ContinualError, match="training.gradient_checkpointing: Plain is not compatible"):
        checkpoint_activations(Plain())


def test_without_a_compiler_it_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(function: Any, **kwargs: Any) -> Any:
        def call(*args: Any) -> Any:
            raise RuntimeError("No working C++ compiler found\nand more")

        return call

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(ContinualError, match=r"training.torch_compile: .*g\+\+ \(No working C\+\+ compiler found\)"):
        CausalLMTemplate(
            model=CausalLM(tiny.model()),
            hyperparameters=TOKENS,
            seed=0,
            collate=Collate([], {}, 0),
            torch_compile=True,
        )


def test_a_model_without_layers_is_not_compiled() -> None:
    with pytest.raises(ContinualError, match="Linear has no layers"), compiled(torch.nn.Linear(2, 2)):
        pass


@pytest.mark.slow
@pytest.mark.skipif(os.system("g++ --version >/dev/null 2>&1") != 0, reason="needs a C++ compiler")
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("adapter", [False, True])
def test_a_compiled_model_learns_the_same_and_is_itself_again(adapter: bool, checkpointing: bool) -> None:
    check_compiler(torch.device("cpu"))

    def weights(**more: Any) -> dict[str, torch.Tensor]:
        stream, collate = world(cues=True)
        lm = facade("llama", adapter)
        if checkpointing:
            checkpoint_activations(lm.inner)
        strategy = CausalLMTemplate(model=lm, hyperparameters=TOKENS, seed=0, collate=collate, **more)
        strategy.train(stream.train_stream[0], eval_streams=[])
        assert all(module._compiled_call_impl is None for module in lm.modules())
        return dict(lm.named_parameters())

    torch.testing.assert_close(weights(torch_compile=True), weights(), atol=1e-4, rtol=1e-4)
