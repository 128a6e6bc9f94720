"""What a run will cost: rows, steps, tokens and seconds, from the data and the model's configuration."""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from continual import portable
from continual.errors import ContinualError
from continual.recipe import Recipe
from continual.rehearsal_settings import Rehearsal
from continual.settings import Training
from continual.stream import cut
from continual.tuning import FACTORS, HALVINGS, SCALES, SWEEPS

if TYPE_CHECKING:
    from continual.task import Task

LOOKED_AT = 64
"""Rows of each task whose tokens are counted."""

# The shares of the matrix-multiply speed that were reached with a model of 4M parameters on two CPU cores:
# 4,230 of 10,800 tokens/s in training over length-sorted batches, 7,130 of 32,000 in decoding at batch 128.
TRAINING_EFFICIENCY = 0.4
DECODING_EFFICIENCY = 0.22


@dataclass(frozen=True)
class BaseSize:
    """A model as its configuration describes it."""

    name: str
    parameters: int
    adapter_parameters: int
    """0 for full fine-tuning."""
    positions: int
    """The most tokens that it sees at once."""
    bytes_per_parameter: int
    chat: Any
    """The `continual.chat.Chat` of its tokenizer."""
    notices: Sequence[str] = ()
    """What to mind of its adapter."""

    def stored_bytes(self, recipe: Recipe) -> int:
        """Size of what is kept after one task."""
        return self.adapter_parameters * 4 if recipe.adapter else self.parameters * self.bytes_per_parameter


@dataclass(frozen=True)
class TaskSize:
    """A task as a run will use it; tokens are means over some rows."""

    task: str
    train: int
    train_available: int
    test: int
    test_available: int
    tokens: float
    answer_tokens: float
    too_long: float = 0.0
    """Share of the rows that are longer than max_length."""
    notices: tuple[str, ...] = ()
    """What a user may not expect of the data, see `Task.notices`."""


@dataclass
class ArmCost:
    """The work of one run of one arm."""

    steps: int = 0
    train_tokens: int = 0
    written: int = 0
    """Rehearsed samples that the model writes."""
    written_tokens: int = 0
    answers: int = 0
    answer_tokens: int = 0
    read_tokens: int = 0
    """Tokens of the prompts that are answered."""
    flops_per_train_token: int = field(default=6, repr=False)
    """Per parameter: 2 forward, 2 backward to the inputs, 2 to the weights, which an adapter saves."""

    def seconds(self, parameters: int, speed: float) -> float:
        """Time at a matrix-multiply speed in FLOP/s."""
        train = self.flops_per_train_token * self.train_tokens / TRAINING_EFFICIENCY
        read = 2 * self.read_tokens / TRAINING_EFFICIENCY
        write = 2 * (self.written_tokens + self.answer_tokens) / DECODING_EFFICIENCY
        return parameters * (train + read + write) / speed


def look_at_model(recipe: Recipe) -> BaseSize:
    """The model's size and tokenizer; builds it without weights.

    Raises:
        ContinualError: its configuration or tokenizer is neither here, nor cached, nor reachable.
    """
    from continual import model as models
    from continual import preflight
    from continual.chat import Chat

    tokenizer = models.load_tokenizer(recipe.origin)
    looked = preflight.look(recipe)
    return BaseSize(
        name=recipe.model_name_or_path,
        parameters=looked.parameters,
        adapter_parameters=looked.adapter_parameters,
        positions=models.max_positions(recipe.origin),
        bytes_per_parameter=2 if recipe.dtype in ("bfloat16", "float16") else 4,
        chat=Chat(tokenizer, recipe.roles),
        notices=looked.notices,
    )


def look_at_tasks(
    recipe: Recipe, base: BaseSize, data_root: Path | None, folders: Sequence[Path]
) -> dict[str, TaskSize]:
    """Rows and tokens of every task of the curriculum, and of those that are only examined, by name.

    Raises:
        ContinualError: with what is wrong for every task whose data are missing.
    """
    from continual.task import TaskIndex

    index = TaskIndex(folders)
    sizes: dict[str, TaskSize] = {}
    missing: list[str] = []
    for entry in recipe.curriculum:
        if entry.remembered is not None:
            rows = entry.remembered.rows
            sizes[entry.task] = TaskSize(entry.task, rows, rows, 0, 0, 0.0, 0.0)
    for name in (*recipe.measured, *recipe.evaluate.general):
        try:
            sizes[name] = _look_at_task(recipe, index.find(name), base, data_root)
        except ContinualError as error:
            missing += error.lines
    if missing:
        raise ContinualError(*missing)
    return sizes


def machine_speed(seconds: float = 0.3) -> float:
    """Matrix multiplications in FLOP/s, on the device that a run would take."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    matrix = torch.randn(1024, 1024, device=device)
    float((matrix @ matrix).sum())  # the first one also pays for starting threads or a device
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        float((matrix @ matrix)[0, 0])  # reading one number waits for a device to finish
        done += 1
    return done * 2 * 1024**3 / (time.perf_counter() - start)


def cost(recipe: Recipe, arm: str, sizes: Mapping[str, TaskSize], base: BaseSize) -> ArmCost:
    """The work of one run of an arm, taken as accepted what is written at the first try."""
    from continual.rehearse.budget import base_quota, own_quotas, sets

    total = ArmCost(flops_per_train_token=4 if recipe.adapter else 6)
    teach, rehearsal = recipe.arms[arm].teach, recipe.arms[arm].rehearsal
    order = [sizes[task] for task in recipe.tasks]
    trainings = [recipe.training_of(arm, task) for task in recipe.tasks]
    used = {size.task: size.train for size in order}
    stages = [{task: rows} for task, rows in used.items()]  # what each optimizer learns: rows by task
    if recipe.stream is not None and teach == "sequential":
        stages = cut(used, recipe.stream.chunks)
        trainings = [recipe.training_of(arm)] * len(stages)
    rehearsed: list[dict[str, float]] = [{} for _ in stages]
    if rehearsal and teach == "sequential":
        rehearsed = _rehearsed(
            rehearsal, own_quotas(recipe.curriculum), stages, recipe.stream is not None and rehearsal.writer != "real"
        )
    if rehearsal and rehearsal.writer == "model":
        once = rehearsal.when == "after_task" and recipe.stream is None
        times = sets(rehearsal, max(training.num_train_epochs for training in trainings))
        written = [(task, times * n) for stage in (rehearsed[-1:] if once else rehearsed) for task, n in stage.items()]
        total.written += round(sum(n for _, n in written))
        total.written_tokens += round(sum(n * sizes[task].tokens for task, n in written))
    own = base_quota(rehearsal, order[0].train) if rehearsal and rehearsal.rehearse_base else 0
    longest = min(recipe.training.max_length, base.positions)  # how long its own samples get is not known
    total.written += own
    total.written_tokens += own * longest
    if teach == "multitask":
        stages, rehearsed, trainings = [used], [{}], [recipe.training_of(arm)]
    if teach in ("merge", "distill"):
        wanted = _from_specialists(recipe, arm, sizes, total)
        stages, rehearsed = ([wanted], [{}]) if wanted else ([], [])
        trainings = [recipe.training_of(arm)] * len(stages)
    for place, (stage, training) in enumerate(zip(stages, trainings, strict=True)):
        parts: list[tuple[list[tuple[str, float]], int]]
        parts = [([*stage.items(), *rehearsed[place].items()], training.num_train_epochs)]
        if rehearsal and rehearsal.schedule == "spaced" and teach == "sequential":
            parts = _with_reviews(stage, rehearsed[place], training, rehearsal, sizes)
        for part, times in parts:
            rows = sum(n for _, n in part) + own
            tokens = _rows_a_sample(rehearsal) * sum(n * sizes[task].tokens for task, n in part) + own * longest
            total.train_tokens += round(tokens * times)
            total.steps += times * _steps(training, rows, tokens)
    exams = [*order, *(sizes[task] for task in recipe.evaluate.general)]
    measured = list(exams)
    if teach == "sequential":  # else an arm is measured once, at its end
        own_only = recipe.evaluate.after == "own_and_last"
        measured += order[:-1] if own_only else (len(stages) - 1) * exams
    total_exams = examination(measured)
    total.answers, total.answer_tokens = total_exams.answers, total_exams.answer_tokens
    total.read_tokens = total_exams.read_tokens
    return total


def _from_specialists(recipe: Recipe, arm: str, sizes: Mapping[str, TaskSize], total: ArmCost) -> dict[str, int]:
    """Rows of each task that an arm learns from specialists: none of a merge. What they write is counted."""
    from continual.rehearse.budget import own_quotas, quotas

    settings, rows = recipe.arms[arm], {task: sizes[task].train for task in recipe.tasks}
    parts: list[dict[str, int]] = []
    learned: dict[str, int] = {}
    if settings.tuned:
        trials = dict.fromkeys(recipe.tasks, settings.tune_samples)
        parts += [trials] if settings.tune_on == "rehearsed" else []
        looks = len(SCALES) + 2 * HALVINGS
        if settings.scale == "tune_each":
            looks += len(FACTORS) * SWEEPS * len(recipe.tasks)
        total.read_tokens += round(looks * sum(n * sizes[task].tokens for task, n in trials.items()))
    if settings.teach == "distill" and settings.rehearsal is not None:
        how, own = settings.rehearsal, own_quotas(recipe.curriculum)
        learned = quotas("old_task", how.ratio, how.samples, rows, "", recipe.tasks, own=own)
        parts.append(learned)
    for part in parts:
        total.written += sum(part.values())
        total.written_tokens += round(sum(n * sizes[task].tokens for task, n in part.items()))
    return learned


def _rehearsed(
    rehearsal: Rehearsal, own: Mapping[str, int], stages: Sequence[Mapping[str, int]], pooled: bool
) -> list[dict[str, float]]:
    """Rows of each task that are rehearsed in each stage.

    Args:
        own: fixed numbers of single tasks.
        stages: rows of each task.
        pooled: whether everything so far is rehearsed together, not stage by stage.
    """
    from continual.rehearse.budget import quotas

    found: list[dict[str, float]] = []
    for new, stage in enumerate(stages):
        earlier: list[Mapping[str, int]] = list(stages[:new])
        if pooled and earlier:
            earlier = [{task: sum(one.get(task, 0) for one in earlier) for one in earlier for task in one}]
        sizes = {str(number): sum(one.values()) for number, one in enumerate(earlier)}
        sizes["new"] = sum(stage.values())
        old = list(sizes)[:-1]
        fixed = {number: own[task] for number, one in zip(old, earlier, strict=True) for task in one if task in own}
        how = (rehearsal.budget, rehearsal.ratio, rehearsal.samples)
        each = quotas(*how, sizes, "new", old, own=fixed) if old else {}
        wanted: dict[str, float] = {}
        for number, samples in each.items():
            for task, rows in earlier[int(number)].items():
                wanted[task] = wanted.get(task, 0) + samples * rows / sizes[number]
        found.append(wanted)
    return found


def examination(sizes: Iterable[TaskSize]) -> ArmCost:
    """The work of measuring one model on every task."""
    total = ArmCost()
    for size in sizes:
        total.answers += size.test
        total.answer_tokens += round(size.test * size.answer_tokens)
        total.read_tokens += round(size.test * (size.tokens - size.answer_tokens))
    return total


def warnings(recipe: Recipe, sizes: Mapping[str, TaskSize], base: BaseSize) -> list[str]:
    """What a user may not have meant."""
    found = []
    longest = recipe.training.max_length
    if longest > base.positions:
        found.append(f"training.max_length is {longest}, but the model sees {base.positions} tokens at most")
    for size in sizes.values():
        if size.too_long > 0.02:
            found.append(f"{size.task}: {size.too_long:.0%} of the rows are longer than max_length={longest}")
        found += size.notices
        if size.train < 100 and size.task in recipe.tasks:
            found.append(f"{size.task}: only {size.train} training rows")
    found += [
        f"arm {name}: its plugin has no state that could be kept (state_dict, load_state_dict); once stopped, this "
        "arm begins anew with its first task"
        for name in _stateless(recipe)
    ]
    found += portable.notices(recipe.adapter.model_dump()) if recipe.adapter is not None else []
    found += _emulated(recipe)
    found += base.notices
    if Path(recipe.output_dir, "manifest.json").exists():
        found.append(f"{recipe.output_dir} holds a run already; it would go on (--fresh starts over)")
    return found


def _emulated(recipe: Recipe) -> list[str]:
    """Settings that ask a device for arithmetic that it has not."""
    settings = ["dtype: bfloat16"] if recipe.dtype == "bfloat16" else []
    settings += ["training.bf16: true"] if recipe.training.bf16 else []
    if not settings:
        return []
    import torch

    from continual.precision import has_bfloat16

    if has_bfloat16("cuda" if torch.cuda.is_available() else "cpu"):
        return []
    return [
        f"{', '.join(settings)}: this processor has no bfloat16 arithmetic (AVX512-BF16 or AMX); it is emulated, and "
        "slower than float32"
    ]


def _stateless(recipe: Recipe) -> list[str]:
    """Arms with a foreign plugin that cannot go on where it was.

    Raises:
        ContinualError: a plugin cannot be made.
    """
    plugins = {name: arm.plugin for name, arm in recipe.arms.items() if arm.plugin is not None}
    if not plugins:
        return []
    from continual.methods.foreign import foreign
    from continual.plugin import Stateful

    return [name for name, one in plugins.items() if not isinstance(foreign(one.class_, one.args), Stateful)]


def _rows_a_sample(rehearsal: Rehearsal | None) -> float:
    """Rows that each sample takes in a batch; with `passes: two` one more where it carries its cue."""
    return 2 - rehearsal.cue_dropout if rehearsal and rehearsal.passes == "two" else 1


def _with_reviews(
    new: Mapping[str, int],
    old: Mapping[str, float],
    training: Training,
    rehearsal: Rehearsal,
    sizes: Mapping[str, TaskSize],
) -> list[tuple[list[tuple[str, float]], int]]:
    """What is new and what is rehearsed, each with how often it is learned.

    How far the model will move is not known; here every step counts as long as those of the first day.
    """
    from continual.rehearse.modeltime import passed

    tokens = sum(rows * sizes[task].tokens for task, rows in new.items())
    steps = training.num_train_epochs * _steps(training, sum(new.values()), tokens)
    reviews = passed(steps / rehearsal.day_steps) + 1
    return [([*new.items()], training.num_train_epochs), ([*old.items()], reviews)]


def _steps(training: Training, rows: float, tokens: float) -> int:
    if training.tokens_per_batch is not None:
        return math.ceil(tokens / training.tokens_per_batch)
    assert training.per_device_train_batch_size is not None
    return math.ceil(rows / (training.per_device_train_batch_size * training.gradient_accumulation_steps))


def _look_at_task(recipe: Recipe, task: "Task", base: BaseSize, data_root: Path | None) -> TaskSize:
    name = task.task
    taught = name in recipe.tasks
    looked_at = task.samples("train" if taught else "test", data_root=data_root, limit=LOOKED_AT)
    if not looked_at:
        raise ContinualError(f"task '{name}' has no {'training' if taught else 'test'} rows")
    train = _rows(task, "train", data_root) if taught else 0
    test = _rows(task, "test", data_root)
    longest = recipe.training.max_length
    rows = [row for sample in looked_at for row in (base.chat.rows(sample) if taught else [sample])]
    encoded = [base.chat.encode(row, longest) for row in rows]
    own = {entry.task: entry.max_samples for entry in recipe.curriculum}
    most = own.get(name) or recipe.training.max_samples or train
    return TaskSize(
        task=name,
        train=min(train, most),
        train_available=train,
        test=min(test, recipe.evaluate.limit or test),
        test_available=test,
        tokens=sum(len(row.input_ids) for row in encoded) / len(looked_at),
        answer_tokens=sum(sum(one.answer) for one in encoded) / len(encoded),
        too_long=sum(one.truncated for one in encoded) / len(encoded),
        notices=tuple(task.notices(data_root)) if taught else (),
    )


def _rows(task: "Task", split: Literal["train", "test"], data_root: Path | None) -> int:
    known = task.count(split, data_root)
    return len(task.samples(split, data_root=data_root)) if known is None else known
