"""The one training loop: a causal-LM template on Avalanche's `SupervisedTemplate`, driven by accelerate.

One Avalanche iteration is one optimizer step. Where a step is forwarded in several micro-batches, they live
inside `forward`, so that every hook fires once per step and sees the whole gradient.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

from continual import crossentropy
from continual.batch import Collate, LMBatch, Triple
from continual.crossentropy import LossOf
from continual.data import CPU_PASS, GPU_PASS, TokenBatches, ahead
from continual.errors import ContinualError
from continual.fused import fused
from continual.guard import guard
from continual.model import CausalLM, check_compiler, compiled
from continual.plugin import LossPlugin
from continual.seeds import derive

guard()

import torch  # noqa: E402
from accelerate import Accelerator  # noqa: E402
from avalanche.training.plugins import EvaluationPlugin  # noqa: E402
from avalanche.training.plugins.clock import Clock  # noqa: E402
from avalanche.training.templates import SupervisedTemplate  # noqa: E402
from avalanche.training.templates.base_sgd import PeriodicEval  # noqa: E402
from torch.optim.lr_scheduler import LambdaLR  # noqa: E402

log = logging.getLogger(__name__)


class Tutor(Protocol):
    """Gives other targets than the next token, for some micro-batches: distillation."""

    def guide(self, model: CausalLM, x: LMBatch) -> LossOf: ...


@dataclass(frozen=True)
class Hyperparameters:
    """How one task is trained; the names are transformers' own."""

    learning_rate: float
    num_train_epochs: int = 3
    tokens_per_batch: int | None = 4096
    per_device_train_batch_size: int | None = None
    gradient_accumulation_steps: int = 1
    warmup_ratio: float = 0.1
    lr_scheduler_type: str = "linear"
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8


def learning_rate_factor(step: int, steps: int, warmup_ratio: float, kind: str) -> float:
    """The share of the learning rate at a step: linear warm-up, then one of three kinds."""
    warmup = math.ceil(warmup_ratio * steps)
    if step < warmup:
        return (step + 1) / warmup
    if kind == "constant":
        return 1.0
    done = (step - warmup) / max(1, steps - warmup)
    return 1 - done if kind == "linear" else 0.5 * (1 + math.cos(math.pi * done))


class CausalLMTemplate(SupervisedTemplate):
    """Teaches a causal language model one experience after another.

    Per experience it makes a fresh optimizer and schedule. The loss of a step is ``sum(answer CE) / n_answer
    + lm_lambda * sum(cued CE) / n_cued``, both counts over the whole step (all its micro-batches, all ranks);
    LAMOL's L = L_QA + lambda L_LM in one forward pass.

    Args:
        model: the facade around a causal LM.
        hyperparameters: one for each experience, by its number in the stream; or one for all.
        seed: every random draw of training derives from it, the experience, the epoch and the step.
        collate: makes the batches; its cues decide whether samples carry one.
        lm_lambda: weight of the sample loss.
        cue_dropout: share of samples that go without cue.
        accelerator: carries precision and distribution.
        plugins: Avalanche plugins.
        evaluator: Avalanche's metrics, or None.
        torch_compile: run the layers compiled while they are trained.

    Raises:
        ContinualError: nothing can be compiled here.
    """

    def __init__(
        self,
        *,
        model: CausalLM,
        hyperparameters: Hyperparameters | Sequence[Hyperparameters],
        seed: int,
        collate: Collate,
        lm_lambda: float = 0.25,
        cue_dropout: float = 0.5,
        accelerator: Accelerator | None = None,
        plugins: Sequence[Any] = (),
        evaluator: EvaluationPlugin | None = None,
        eval_every: int = -1,
        torch_compile: bool = False,
    ) -> None:
        self.accelerator = accelerator or Accelerator()
        self.hyperparameters = hyperparameters
        self.seed, self.collate, self.lm_lambda, self.cue_dropout = seed, collate, lm_lambda, cue_dropout
        self.train_tokens = 0
        """Real tokens forwarded in training in this experience, on all ranks."""
        self.step = 0
        """Optimizer steps taken in this experience."""
        self.started = 0.0
        """When this experience was begun, by `time.perf_counter`; earlier by what was done before a stop."""
        self.one_forward = False
        """Set by a plugin that must see the output of a whole step at once."""
        self.tutor: Tutor | None = None
        """Set by a method that distils; it is asked about every micro-batch in training."""
        self.turns: Sequence[Any] = ()
        """Set by a plugin that adds other rows in each epoch, see `TokenBatches`."""
        self._loss_of: LossOf = crossentropy.plain
        self.halvings = 0
        """How often the micro-batches of this experience were halved, because they did not fit into memory."""
        self.torch_compile = torch_compile
        if torch_compile:
            check_compiler(self.accelerator.device)
        super().__init__(
            model=self.accelerator.prepare_model(model),
            # Avalanche wants an optimizer from the start; each experience gets its own below.
            optimizer=torch.optim.SGD(model.parameters(), lr=0.0),
            criterion=torch.nn.CrossEntropyLoss(),
            device=self.accelerator.device,
            plugins=list(plugins),
            evaluator=evaluator or EvaluationPlugin(),
            eval_mb_size=32,
            eval_every=eval_every,
        )

    @property
    def lm(self) -> Any:
        """The transformers (or PEFT) model inside."""
        return self.facade.inner

    @property
    def facade(self) -> CausalLM:
        """The model as the loop sees it, on this process."""
        return self.accelerator.unwrap_model(self.model)

    @property
    def output_is_read(self) -> bool:
        """Whether a metric or a plugin may read `mb_output`; if none does, it is the loss and not the logits."""
        quiet = (LossPlugin, EvaluationPlugin, PeriodicEval, Clock)
        return bool(self.evaluator.metrics) or not all(isinstance(plugin, quiet) for plugin in self.plugins)

    @property
    def settings(self) -> Hyperparameters:
        """The hyper-parameters of the current experience."""
        if isinstance(self.hyperparameters, Hyperparameters):
            return self.hyperparameters
        return self.hyperparameters[self.experience.current_experience]

    @property
    def steps(self) -> int:
        """Optimizer steps that the current experience takes in all."""
        return len(self.dataloader) * self.settings.num_train_epochs

    def train_dataset_adaptation(self, **kwargs: Any) -> None:
        self.started = time.perf_counter()
        # Avalanche's plugins ask its clock how many tasks were learnt, and after a stop it would begin at 0.
        self.clock.train_exp_counter = self.experience.current_experience
        super().train_dataset_adaptation(**kwargs)

    def make_train_dataloader(self, **kwargs: Any) -> None:
        """Token-budget batches over `adapted_dataset`, to which plugins may have added rows."""
        self.train_epochs = self.settings.num_train_epochs
        seed = derive(self.seed, self.experience.current_experience, "batches")
        self.dataloader = self.batches_of(self.adapted_dataset, seed, self.turns)
        self.train_mb_size = self.dataloader.rows_per_step

    def batches_of(self, dataset: Any, seed: int, turns: Sequence[Any] = ()) -> TokenBatches:
        """Batches of some rows, of the size that this experience has."""
        settings = self.settings
        return TokenBatches(
            dataset,
            self.collate,
            seed=seed,
            tokens_per_batch=settings.tokens_per_batch,
            rows_per_batch=settings.per_device_train_batch_size,
            accumulation=settings.gradient_accumulation_steps,
            cue_dropout=self.cue_dropout,
            whole=self.one_forward,
            turns=turns,
            pass_tokens=CPU_PASS if self.device.type == "cpu" else GPU_PASS,
            rank=self.accelerator.process_index,
            ranks=self.accelerator.num_processes,
        )

    def check_model_and_optimizer(self, **kwargs: Any) -> None:
        """A fresh optimizer and schedule for each experience."""
        self.step = self.train_tokens = self.halvings = 0
        self.renew_optimizer(self.steps)

    def renew_optimizer(self, steps: int) -> None:
        """A fresh optimizer over the trainable parameters only, and a schedule of so many steps."""
        settings = self.settings
        decay = [p for p in self.model.parameters() if p.ndim >= 2]
        rest = [p for p in self.model.parameters() if p.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": decay, "weight_decay": settings.weight_decay}, {"params": rest, "weight_decay": 0.0}],
            lr=settings.learning_rate,
            betas=(settings.adam_beta1, settings.adam_beta2),
            eps=settings.adam_epsilon,
            fused=True,
        )
        warmup, kind = settings.warmup_ratio, settings.lr_scheduler_type
        self.schedule = LambdaLR(self.optimizer, lambda step: learning_rate_factor(step, steps, warmup, kind))

    def _train_exp(self, experience: Any, eval_streams: Any = None, **kwargs: Any) -> None:
        """All epochs of an experience, from step `self.step` on (0, or where a checkpoint left off)."""
        per_epoch = len(self.dataloader)
        first, self.dataloader.skip = divmod(self.step, per_epoch)
        # The compiler fuses by itself, and does not see through nodes of others.
        with compiled(self.lm) if self.torch_compile else fused(self.lm):
            for epoch in range(first, self.train_epochs):
                self.dataloader.epoch = epoch
                self._before_training_epoch(**kwargs)
                if self._stop_training:
                    self._stop_training: bool = False
                    break
                self.training_epoch(**kwargs)
                self._after_training_epoch(**kwargs)

    def training_epoch(self, **kwargs: Any) -> None:
        """SupervisedTemplate's epoch, with the random state of each step derived from its number."""
        with closing(ahead(self._batches())) as batches:
            for mbatch in batches:
                if self._stop_training:
                    break
                self.mbatch: Any = mbatch
                self._seed_step()
                self._unpack_minibatch()
                self._before_training_iteration(**kwargs)
                self._compute_gradient(**kwargs)
                self._before_update(**kwargs)
                self._check_finite("loss", self.loss)
                self.optimizer_step()
                self._after_update(**kwargs)
                self.step += 1
                self.train_tokens += sum(batch.tokens for batch in self.mb_x.step) * self.accelerator.num_processes
                self._after_training_iteration(**kwargs)

    def _batches(self) -> Iterator[Triple]:
        """The steps of an epoch, in memory from which a GPU fetches by itself."""
        for x, y, t in self.dataloader:
            yield (x.pin_memory(), y.pin_memory(), t.pin_memory()) if self.device.type == "cuda" else (x, y, t)

    def _seed_step(self) -> None:
        # Dropout draws from torch's global state. Set anew at each step, it is the same after a resume.
        torch.manual_seed(derive(self.seed, self.experience.current_experience, self.step, "step"))

    def _unpack_minibatch(self) -> None:
        super()._unpack_minibatch()
        if self.is_training:
            x, y, t = self.mbatch
            self._whole: Triple = (x, y, t)
            self._cut()

    def _compute_gradient(self, **kwargs: Any) -> None:
        """Forward and backward; where memory does not suffice, again with micro-batches of half the rows.

        The gradient stays the same, for the loss is a sum over positions. Hooks from `before_forward` to
        `after_backward` fire again.

        Raises:
            ContinualError: a micro-batch cannot be halved.
        """
        before = self.halvings
        while not self._fits(**kwargs):
            self._halve()
        if self.halvings > before:
            rows = max(len(batch) for batch in self.mb_x.step)
            log.warning(
                "out of memory: this task goes on with micro-batches of half the rows (now %d); its batches stay the "
                "same",
                rows,
            )

    def _fits(self, **kwargs: Any) -> bool:
        """Compute the gradient of the step; false if memory does not suffice."""
        try:
            self.optimizer.zero_grad()
            self.loss = self._make_empty_loss()
            self._before_forward(**kwargs)
            self.mb_output = self.forward()
            self._after_forward(**kwargs)
            self.loss = self.loss + self.criterion() + self._earlier_loss
            self._before_backward(**kwargs)
            self.backward()
            self._after_backward(**kwargs)
        except torch.OutOfMemoryError:
            return False
        return True

    def _halve(self) -> None:
        """Let go of what a failed attempt left in memory, and cut the micro-batches of this experience in two."""
        self.loss = self.mb_output = self._earlier_loss = self._make_empty_loss()
        self.optimizer.zero_grad()
        longest = max(max(batch.lengths) for batch in self.mb_x.step)
        if all(len(batch) == 1 for batch in self.mb_x.step):
            raise ContinualError(
                f"training.max_length: out of memory with a single row of {longest} tokens; lower it, or set "
                "training.gradient_checkpointing: true or training.bf16: true, or take a smaller model"
            )
        if self.one_forward:
            told = "out of memory, and a plugin needs each batch whole; lower it"
            raise ContinualError(f"training.tokens_per_batch: {told}")
        if self.accelerator.num_processes > 1:
            # The other processes have room, and wait for this one's gradient.
            lower = "lower tokens_per_batch or per_device_train_batch_size"
            raise ContinualError(f"training: out of memory on one of several processes; {lower}")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.halvings += 1
        self._cut()
        self._seed_step()

    def _cut(self) -> None:
        """Make the micro-batches of this step as small as memory asks for."""
        x, y, t = self._whole
        if self.halvings:
            of_step = [*x.earlier, (x, y)]
            earlier = [part for batch, labels in of_step for part in batch.split(labels, 2**self.halvings)]
            x, y = earlier.pop()
            x.earlier, t = earlier, t[len(t) - len(y) :]
        self.mbatch = [x, y, t]

    def forward(self) -> torch.Tensor:
        """What is made of the (last) micro-batch; the others have then left their gradients behind.

        Logits, (N, vocab); in training, where nothing reads them, the loss instead.
        """
        self._earlier_loss = self._make_empty_loss()
        if not self.is_training:
            return self.model(self.mb_x)
        self._count_supervised()
        for batch, y in self.mb_x.earlier:
            loss = self.model(batch, y, self._weight(batch), self._guide(batch))
            self.accelerator.backward(loss)
            self._earlier_loss = self._earlier_loss + loss.detach()
        if not self.output_is_read:
            return self.model(self.mb_x, self.mb_y, self._weight(self.mb_x), self._guide(self.mb_x))
        self._loss_of = self._guide(self.mb_x)
        return self.model(self.mb_x)

    def _guide(self, x: LMBatch) -> LossOf:
        if self.tutor is None:
            return crossentropy.plain
        with self.accelerator.autocast():
            return self.tutor.guide(self.facade, x)

    def criterion(self) -> torch.Tensor:
        """The loss of the (last) micro-batch; in evaluation, plain cross-entropy."""
        if not self.is_training:
            return super().criterion()
        if not self.output_is_read:
            return self.mb_output
        loss = self._loss_of(slice(0, len(self.mb_y)))
        return loss(self.mb_output, self.mb_y, self._weight(self.mb_x))

    def _count_supervised(self) -> None:
        """The two denominators, over all micro-batches and ranks of this step."""
        counts = torch.stack([torch.stack([b.answer.sum(), b.cued.sum()]) for b in self.mb_x.step]).sum(0)
        if self.accelerator.num_processes > 1:
            # Distributed training averages gradients over ranks; our loss is a sum over them.
            counts = self.accelerator.reduce(counts, "sum") / self.accelerator.num_processes
        self._counts = counts.clamp(min=1)

    def _weight(self, x: LMBatch) -> torch.Tensor:
        """What each supervised position counts in the loss of the step, (N,)."""
        answers, cued = self._counts
        return x.answer / answers + self.lm_lambda * x.cued / cued

    def backward(self) -> None:
        self.accelerator.backward(self.loss.sum())

    def optimizer_step(self) -> None:
        if self.settings.max_grad_norm > 0:
            norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
            self._check_finite("gradient", norm)
        self.optimizer.step()
        self.schedule.step()

    def _check_finite(self, what: str, value: torch.Tensor) -> None:
        """Stop at the first number that is none: nothing that is learned from it would be one.

        Raises:
            ContinualError: with the step and the learning rate.
        """
        if bool(torch.isfinite(value).all()):
            return
        rate = self.schedule.get_last_lr()[0]
        cure = "lower training.learning_rate" if self.step else "see whether the base's own answers are sound"
        raise ContinualError(
            f"training: the {what} is no finite number at step {self.step + 1} of {self.steps} (learning rate "
            f"{rate:g}, max_grad_norm {self.settings.max_grad_norm:g}); {cure}"
        )
