"""The training loops that are compared: ours, TRL's, a careful plain one, LAMOL's two passes. One epoch each.

Each takes a model at its starting weights and returns what it took: seconds, and the loss of each step.
"""

import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import measure
from benchmarks.texts import Pair
from continual.guard import guard

guard()

import torch  # noqa: E402

CUE = [5, 6, 7]


@dataclass(frozen=True)
class Setting:
    """What is the same for all: constant learning rate, AdamW without decay, gradients clipped at 1."""

    rows: Sequence[Pair]
    rows_per_step: int = 32
    learning_rate: float = 1e-3
    lm_lambda: float = 0.25

    @property
    def tokens(self) -> int:
        """Real tokens of an epoch: every row once, however often a loop reads it."""
        return sum(len(row.ids) for row in self.rows)


@dataclass(frozen=True)
class Taken:
    """What one epoch took."""

    seconds: float
    losses: list[float]


def tenths(losses: Sequence[float]) -> list[float]:
    """The mean loss of each tenth of an epoch."""
    edges = [round(i * len(losses) / 10) for i in range(11)]
    return [sum(losses[a:b]) / (b - a) for a, b in zip(edges, edges[1:], strict=False) if b > a]


def _forget_precision() -> None:
    """Accelerate allows one precision in a process; here each loop has its own."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def ours(model: Any, setting: Setting, bf16: bool = False, sample_loss: bool = False) -> Taken:
    """`CausalLMTemplate`; with `sample_loss` both of LAMOL's losses in one pass."""
    from accelerate import Accelerator
    from avalanche.benchmarks import benchmark_from_datasets
    from avalanche.core import SupervisedPlugin

    from continual.batch import Collate
    from continual.chat import Encoded
    from continual.data import Rows, dataset
    from continual.learn import CausalLMTemplate, Hyperparameters
    from continual.model import CausalLM

    class Losses(SupervisedPlugin):
        def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
            losses.append(strategy.loss.detach())

    _forget_precision()
    losses: list[torch.Tensor] = []
    encoded = [Encoded(row.ids, [0] * len(row.prompt) + [1] * len(row.answer), False) for row in setting.rows]
    collate = Collate([], {0: CUE} if sample_loss else {}, 0)
    data = dataset(Rows(encoded), 0, collate)
    per_row = setting.tokens / len(encoded) + len(CUE) * sample_loss
    strategy = CausalLMTemplate(
        model=CausalLM(model),
        hyperparameters=Hyperparameters(
            learning_rate=setting.learning_rate,
            num_train_epochs=1,
            tokens_per_batch=round(setting.rows_per_step * per_row),
            warmup_ratio=0.0,
            lr_scheduler_type="constant",
            weight_decay=0.0,
        ),
        seed=0,
        collate=collate,
        lm_lambda=setting.lm_lambda if sample_loss else 0.0,
        cue_dropout=0.0,
        accelerator=Accelerator(mixed_precision="bf16" if bf16 else "no"),
        plugins=[Losses()],
    )
    lesson = benchmark_from_datasets(train=[data]).train_stream[0]
    seconds = measure.timed(lambda: strategy.train(lesson, eval_streams=[]))
    return Taken(seconds, [float(loss) for loss in losses])


def trl(model: Any, setting: Setting, tokenizer: Any, bf16: bool, packing: bool, batch: int) -> Taken:
    """TRL's SFTTrainer. The data set is prepared, and already tokenised, before its clock starts."""
    from datasets import Dataset, disable_progress_bars
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    disable_progress_bars()
    _forget_precision()
    table = Dataset.from_dict(
        {
            "input_ids": [row.ids for row in setting.rows],
            "labels": [[-100] * len(row.prompt) + row.answer for row in setting.rows],
        }
    )
    longest = max(256, *(len(row.ids) for row in setting.rows))
    # A packed sequence holds several rows; a step holds as many rows either way.
    per_step = setting.rows_per_step
    if packing:
        per_step = max(1, round(per_step * setting.tokens / len(setting.rows) / longest))
    batch = min(batch, per_step)
    steps = len(setting.rows) / setting.rows_per_step
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=max(1, round(per_step / batch)),
            num_train_epochs=1,
            learning_rate=setting.learning_rate,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_length=longest,
            packing=packing,
            bf16=bf16,
            use_cpu=not torch.cuda.is_available(),
            gradient_checkpointing=False,
            dataloader_pin_memory=torch.cuda.is_available(),
            report_to="none",
            save_strategy="no",
            logging_steps=max(1, int(steps / 10)),
            disable_tqdm=True,
            seed=0,
        )
        trainer = SFTTrainer(model=model, processing_class=tokenizer, train_dataset=table, args=arguments)
        trainer.remove_callback(PrinterCallback)
        seconds = measure.timed(trainer.train)
    return Taken(seconds, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry])


def plain(model: Any, setting: Setting, bucketed: bool = True, two_passes: bool = False) -> Taken:
    """What a careful person writes: batches of rows of like length, all logits, the model's own loss.

    Args:
        bucketed: else rows come in random order.
        two_passes: as LAMOL's release: question and answer without the cue, then all of it after the cue; two
            forward passes, the losses added, one backward pass and one step.
    """
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=setting.learning_rate, weight_decay=0.0, fused=True)
    losses: list[torch.Tensor] = []

    def run() -> None:
        for part in _batches(setting.rows, setting.rows_per_step, bucketed):
            loss = _loss(model, [(row.ids, len(row.prompt)) for row in part])
            if two_passes:
                cued = [(CUE + row.ids, len(CUE)) for row in part]
                loss = loss + setting.lm_lambda * _loss(model, cued)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())

    seconds = measure.timed(run)
    return Taken(seconds, [float(loss) for loss in losses])


def _batches(rows: Sequence[Pair], size: int, bucketed: bool) -> Iterator[list[Pair]]:
    rng = random.Random(0)
    order = rng.sample(range(len(rows)), len(rows))
    if bucketed:
        order.sort(key=lambda i: len(rows[i].ids))
    parts = [order[i : i + size] for i in range(0, len(order), size)]
    rng.shuffle(parts)
    for part in parts:
        yield [rows[i] for i in part]


def _loss(model: Any, rows: Sequence[tuple[list[int], int]]) -> torch.Tensor:
    """The mean loss over what follows each row's first tokens, which bear none."""
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([row + [0] * (longest - len(row)) for row, _ in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row, _ in rows])
    labels = torch.tensor([[-100] * n + row[n:] + [-100] * (longest - len(row)) for row, n in rows])
    ids, mask, labels = (t.to(model.device) for t in (ids, mask, labels))
    return model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
