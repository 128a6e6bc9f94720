"""The parts of a recipe: adapter, training, rehearsal, arm, evaluation, an entry of the curriculum.

Every class is frozen and refuses unknown keys. `continual.recipe` puts them together.
"""

from typing import Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from continual.catalogue import METHODS, REFUSED, STACKS
from continual.guard_settings import Guard
from continual.problems import Problem, did_you_mean, problems_of, wrong_arguments
from continual.rehearsal_settings import Rehearsal
from continual.remembered import Remembered
from continual.settings_base import Settings

SHARED = ("max_length", "max_samples", "bf16")
"""What an arm cannot change, or its scores could not be compared with those of other arms."""


DISTILLED: dict[str, Any] = {
    "ratio": 1.0,
    "writer": "specialist",
    "relabel": "specialist",
    "distill": {"teacher": "specialist"},
}
"""What differs in the `rehearsal` of an arm with `teach: distill`: nothing else is learned there."""


class CurriculumEntry(Settings):
    """One task of the curriculum, with what differs for it."""

    task: str
    """Name of a task, as `continual ls tasks` shows it."""

    max_samples: int | None = Field(None, ge=1)
    """Use at most this many training rows; instead of `training.max_samples`."""

    num_train_epochs: int | None = Field(None, ge=1)
    """Instead of `training.num_train_epochs`."""

    rehearsal_samples: int | None = Field(None, ge=1)
    """Samples of this task to rehearse, instead of what an arm's `rehearsal` says of all."""

    remembered: Remembered | None = None
    """The data is gone: the task was learned before, is rehearsed, and is neither taught nor measured."""


class Adapter(Settings):
    """A low-rank adapter, with the names of PEFT's LoraConfig."""

    type: Literal["lora"] = "lora"

    r: int = Field(16, ge=1)
    """Rank of the two matrices: higher learns more, and weighs more."""

    lora_alpha: float = Field(32, gt=0)
    """The update is scaled by lora_alpha / r."""

    lora_dropout: float = Field(0.0, ge=0, lt=1)

    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Which layers are adapted: every linear one except the output layer, or a list of names."""

    use_rslora: bool = False
    """Scale by lora_alpha / sqrt(r) instead (arXiv 2312.03732)."""

    use_dora: bool = False
    """Learn magnitude and direction apart (arXiv 2402.09353)."""

    init_lora_weights: bool | str = True
    """True: the update starts at zero; or `gaussian` or `orthogonal`."""

    bias: Literal["none"] = "none"
    """Biases stay as they are: an adapter that changes them could not be taken off again."""

    modules_to_save: tuple[str, ...] | None = None
    """Layers trained and stored whole beside the adapter."""

    target_parameters: tuple[str, ...] | None = None
    """Weights outside of linear layers that are adapted too, such as `experts.down_proj`."""

    rank_pattern: dict[str, int] | None = None
    """A rank for single layers, by name or regular expression."""

    alpha_pattern: dict[str, float] | None = None
    """A lora_alpha for single layers, by name or regular expression."""

    def given(self, names: tuple[str, ...]) -> list[str]:
        """Those of some settings that are not at their default."""
        return [name for name in names if getattr(self, name) != type(self).model_fields[name].default]

    @property
    def lora_arguments(self) -> dict[str, Any]:
        """Arguments of `peft.LoraConfig`."""
        return self.model_dump(mode="json", exclude={"type"}, exclude_none=True)

    @property
    def factors_only(self) -> bool:
        """Whether it is a plain product for each linear layer, as adapters on one shared base have to be."""
        return not self.given(("use_dora", "modules_to_save", "target_parameters"))

    @field_validator("init_lora_weights")
    @classmethod
    def _leaves_the_base_alone(cls, init: bool | str) -> bool | str:
        if isinstance(init, str) and init not in ("gaussian", "orthogonal"):
            raise ValueError(
                f"'{init}' is not supported: only true, gaussian and orthogonal leave the base model as it is, "
                "and an adapter that changes its base cannot be swapped with others"
            )
        return init


class Quantization(Settings):
    """How bitsandbytes quantises the base, with the names of transformers' BitsAndBytesConfig."""

    load_in_4bit: bool = False

    load_in_8bit: bool = Field(False, validate_default=True)

    bnb_4bit_quant_type: Literal["fp4", "nf4"] = "nf4"
    """nf4 is made for weights that are normally distributed (QLoRA, arXiv 2305.14314)."""

    bnb_4bit_compute_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Precision of the products; null: bitsandbytes' own."""

    bnb_4bit_use_double_quant: bool = False
    """Quantise the scales too: 0.4 bits less for each weight."""

    llm_int8_threshold: float = Field(6.0, ge=0)
    """Inputs above it are multiplied unquantised, in 8 bits."""

    llm_int8_skip_modules: tuple[str, ...] | None = None
    """Modules that stay as they are."""

    @field_validator("load_in_8bit")
    @classmethod
    def _one_width(cls, eight: bool, info: ValidationInfo) -> bool:
        if eight == info.data.get("load_in_4bit", not eight):
            raise ValueError("set one of load_in_4bit and load_in_8bit to true")
        return eight

    @property
    def arguments(self) -> dict[str, Any]:
        """Of `transformers.BitsAndBytesConfig`."""
        return self.model_dump(mode="json", exclude_none=True)


class Training(Settings):
    """How one task is learned, with the names of transformers' TrainingArguments."""

    learning_rate: float = Field(gt=0)

    num_train_epochs: int = Field(3, ge=1)

    per_device_train_batch_size: int | None = Field(None, ge=1)
    """Rows in one forward pass; give this or tokens_per_batch."""

    gradient_accumulation_steps: int = Field(1, ge=1)
    """Forward passes in one optimizer step; with per_device_train_batch_size only."""

    tokens_per_batch: int | None = Field(None, ge=1, validate_default=True)
    """Tokens in one optimizer step of one process; 4096 where no batch size is given."""

    max_length: int = Field(512, ge=8)
    """Tokens of a sample; longer ones lose the beginning of their prompt."""

    max_samples: int | None = Field(None, ge=1)
    """Training rows used of each task; null: all."""

    warmup_ratio: float = Field(0.1, ge=0, lt=1)
    """Share of a task's steps in which the learning rate rises to its full height."""

    lr_scheduler_type: Literal["linear", "cosine", "constant"] = "linear"

    weight_decay: float = Field(0.01, ge=0)

    max_grad_norm: float = Field(1.0, gt=0)

    adam_beta1: float = Field(0.9, ge=0, lt=1)

    adam_beta2: float = Field(0.999, ge=0, lt=1)

    adam_epsilon: float = Field(1e-8, gt=0)

    bf16: bool = False
    """Compute in bfloat16 while the weights stay in their own precision."""

    gradient_checkpointing: bool = False
    """Compute activations again for the gradient instead of keeping them: less memory, more time."""

    torch_compile: bool = False
    """Compile the layers for training; needs a C++ compiler."""

    save_steps: int | None = Field(None, ge=1)
    """Optimizer steps between checkpoints inside a task; null: only between tasks."""

    @field_validator("gradient_accumulation_steps")
    @classmethod
    def _needs_batch_size(cls, steps: int, info: ValidationInfo) -> int:
        if steps > 1 and info.data.get("per_device_train_batch_size", 1) is None:
            raise ValueError("needs per_device_train_batch_size; a batch of tokens_per_batch is split by itself")
        return steps

    @field_validator("tokens_per_batch")
    @classmethod
    def _one_way_to_size_a_batch(cls, tokens: int | None, info: ValidationInfo) -> int | None:
        rows = info.data.get("per_device_train_batch_size")
        if tokens is not None and rows is not None:
            raise ValueError("give either tokens_per_batch or per_device_train_batch_size, not both")
        return 4096 if tokens is None and rows is None else tokens

    def changed(self, settings: dict[str, Any]) -> "Training":
        """These settings with some changed; a new way of sizing a batch replaces the old one.

        Raises:
            ValidationError: a name is unknown or a value does not fit.
        """
        kept = self.model_dump(exclude_unset=True)
        by_rows = {"per_device_train_batch_size", "gradient_accumulation_steps"}
        if "tokens_per_batch" in settings:
            kept = {name: value for name, value in kept.items() if name not in by_rows}
        if "per_device_train_batch_size" in settings:
            kept.pop("tokens_per_batch", None)
        return Training.model_validate({**kept, **settings})


class ForeignPlugin(Settings):
    """Any plugin with Avalanche's hooks."""

    model_config = ConfigDict(serialize_by_alias=True)

    class_: str = Field(alias="class", pattern=r"^[\w.]+:\w+$")
    """`module:Class`."""

    args: dict[str, Any] = Field(default_factory=dict)
    """Its keyword arguments."""


class Arm(Settings):
    """One way of teaching the curriculum."""

    teach: Literal["sequential", "specialists", "multitask", "merge", "distill"] = "sequential"
    """Task after task; one adapter for each task; all tasks at once; or one adapter from the specialists of another
    arm, by merging them, or by learning what they write."""

    rehearsal: Rehearsal | None = None
    """null: nothing of earlier tasks is rehearsed. Specialists only learn to write their samples. With `distill` it
    says how they write and teach."""

    of: str | None = None
    """With `merge` and `distill`: whose specialists; null: those of the first arm that has some."""

    method: str | None = None
    """Another way to remember, beside rehearsal or instead of it, by name; `continual ls methods` shows all. Of a
    merge: how."""

    method_args: dict[str, Any] = Field(default_factory=dict)
    """Arguments of `method`."""

    scale: float | Literal["tune", "tune_each"] = 1.0
    """Of a merge: what it is multiplied with; `tune` looks for the best, `tune_each` for each specialist's own weight,
    too."""

    rank: int | None = Field(None, ge=1)
    """Of a merge: the rank of the adapter; null: that of the specialists."""

    tune_on: Literal["rehearsed", "dev"] = "rehearsed"
    """What a merge is tuned on: samples that the specialists write, or real rows that no training has seen."""

    tune_samples: int = Field(32, ge=1)
    """Samples of each task that a merge is tuned on."""

    start_from: Literal["previous", "base", "merged"] = "previous"
    """Where the adapter of the next task starts: it is trained on; a fresh one on the untaught base; or a fresh one on
    top of the earlier ones, which are frozen. With `distill`, merged is the merge of the specialists by `method`."""

    plugin: ForeignPlugin | None = None
    """A plugin of Avalanche's, or of one's own, by class."""

    guard: Guard | None = None
    """null: an arm may forget as much as it likes."""

    training: dict[str, Any] = Field(default_factory=dict)
    """What differs for this arm from the recipe's `training`."""

    @model_validator(mode="before")
    @classmethod
    def _distilled_from_what_specialists_write(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("teach") != "distill":
            return data
        given = data.get("rehearsal", {})
        if not isinstance(given, dict):
            return data
        named = {"specialists": data["of"]} if data.get("of") is not None else {}
        told = {**DISTILLED, **named, **given}
        if isinstance(told["distill"], dict):
            told["distill"] = {**DISTILLED["distill"], **told["distill"]}
        return {**data, "rehearsal": told}

    @field_validator("rehearsal")
    @classmethod
    def _only_in_sequence(cls, rehearsal: Rehearsal | None, info: ValidationInfo) -> Rehearsal | None:
        teach = info.data.get("teach", "sequential")
        if rehearsal is not None and teach in ("multitask", "merge"):
            raise ValueError(f"{teach} has no earlier tasks to rehearse; only teach: sequential has")
        if rehearsal is not None and rehearsal.rehearse_base and teach != "sequential":
            raise ValueError(f"rehearse_base: {teach} keep nothing from task to task; only teach: sequential does")
        return rehearsal

    @field_validator("guard")
    @classmethod
    def _guards_a_sequence(cls, guard: Guard | None, info: ValidationInfo) -> Guard | None:
        teach = info.data.get("teach", "sequential")
        if guard is not None and teach != "sequential":
            raise ValueError(f"{teach} has no earlier tasks to guard; only teach: sequential has")
        return guard

    @property
    def merges(self) -> bool:
        """Whether specialists are merged."""
        return self.teach == "merge" or (self.teach == "distill" and self.start_from == "merged")

    @property
    def tuned(self) -> bool:
        """Whether a merge looks for its own scale."""
        return self.merges and isinstance(self.scale, str)

    @property
    def stores_rows(self) -> bool:
        """Whether real rows of earlier tasks are learned again."""
        method = self.method is not None and METHODS[self.method].keeps_rows
        return method or (self.rehearsal is not None and self.rehearsal.writer == "real")

    @property
    def keeps_rows(self) -> bool:
        """Whether real rows of earlier tasks may be read again, since no zero is claimed."""
        return self.stores_rows or self.rehearsal is None

    def problems(self, training: Training) -> list[Problem]:
        """What is wrong with this arm's `training` on top of the recipe's."""
        wrong: list[Problem] = []
        try:
            training.changed(self.training)
        except ValidationError as error:
            wrong = problems_of(error, Training, self.training)
        shared = [name for name in SHARED if name in self.training]
        wrong += [Problem((name,), f"is the same for all arms; set training.{name}") for name in shared]
        return [Problem(("training", *problem.keys), problem.message) for problem in wrong]

    @property
    def stacks(self) -> bool:
        """Whether new adapters are put on top of earlier ones, which are frozen."""
        on_top = self.start_from == "merged" and self.teach == "sequential"
        return on_top or (self.method in METHODS and METHODS[self.method].stacks)

    def start_problems(self, adapter: Adapter | None) -> list[Problem]:
        """What is wrong with `start_from` of an arm that learns task after task."""
        if self.start_from == "previous" or self.teach == "distill":
            return []
        said = []
        if self.teach != "sequential":
            said.append(f"{self.teach} has no task that could start from another; only teach: sequential has")
        if adapter is None:
            said.append("is about adapters; the recipe has no `adapter`")
        if self.method in METHODS and not METHODS[self.method].any_start:
            said.append(f"method {self.method} decides how a task starts, or remembers what belongs to one adapter")
        if self.start_from == "merged" and adapter is not None:
            said += [f"adapters with {name} cannot be stacked" for name in adapter.given(STACKS)]
        return [Problem(("start_from",), message) for message in said]

    def method_problems(self, adapter: Adapter | None) -> list[Problem]:
        """What is wrong with `method` and `method_args`, where they are no merge's."""
        if self.merges:
            return []
        if self.method is None:
            return [Problem(("method_args",), "there is no `method` to take them")] if self.method_args else []
        if self.method not in METHODS:
            name = self.method.lower().replace("-", "_")
            reason = REFUSED.get(name)
            said = f"'{self.method}' {reason}" if reason else f"unknown method '{self.method}'"
            return [Problem(("method",), said + ("" if reason else did_you_mean(name, METHODS)))]
        method, found = METHODS[self.method], []
        if self.teach != "sequential":
            found.append(Problem(("method",), f"{self.teach} has no earlier tasks; only teach: sequential has"))
        if method.adapter == "needed" and adapter is None:
            found.append(Problem(("method",), f"{self.method} works on adapters; the recipe has no `adapter`"))
        if method.adapter == "refused" and adapter is not None:
            found.append(Problem(("method",), f"{self.method} works on whole models; take `adapter` out"))
        if adapter is not None:
            given = adapter.given(method.refuses)
            found += [Problem(("method",), f"{self.method} cannot do adapter.{name}") for name in given]
        if not method.beside_rehearsal and self.rehearsal is not None:
            found.append(Problem(("method",), f"{self.method} cannot be combined with `rehearsal`"))
        if method.watches_steps and self.rehearsal is not None and self.rehearsal.schedule == "spaced":
            what = f"{self.method} looks at every step, and reviews have steps of their own"
            found.append(Problem(("rehearsal", "schedule"), f"spaced: {what}; take `every`"))
        return found + wrong_arguments(method.arguments, self.method_args, "method_args")
