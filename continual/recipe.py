"""A recipe: a model, a curriculum, and the ways of teaching it; loaded, overridden and checked as a whole."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from continual import overrides as overriding
from continual import yamlfile
from continual.arm_checks import TAKEN, asked_of, checked_arms
from continual.errors import ContinualError
from continual.evaluate_settings import Evaluate
from continual.origin import Origin
from continual.paths import shipped
from continual.problems import Problem, annotation_at, did_you_mean, problems_error, problems_of
from continual.settings import (
    Adapter,
    Arm,
    CurriculumEntry,
    Quantization,
    Training,
)
from continual.settings_base import Settings
from continual.stream_settings import TOLD, Stream, unannounced

if TYPE_CHECKING:
    from continual.task import TaskIndex

DEFAULT_ARMS: dict[str, Any] = {"rehearsal": {"teach": "sequential", "rehearsal": {}}}
"""What a recipe without `arms` teaches."""

NOT_SWEPT = {
    "arms": "",
    "model_name_or_path": ": all that a run leaves stands on one base model; make a run for each",
    "revision": ": all that a run leaves stands on one base model; make a run for each",
    "quantization": ": all that a run leaves stands on one base model; make a run for each",
    "output_dir": "",
    "seeds": "; seeds have a key of their own",
    "sweep": "",
    "training.bf16": "",
}
"""Keys that a sweep cannot vary, and what is to be said of it."""


class Recipe(Settings):
    """Everything that decides what a run does. `load_recipe` makes one from a file."""

    model_name_or_path: str
    """`builtin:tinyworld`, a name on the Hugging Face Hub, a folder, or a GGUF file."""

    revision: str | None = None
    """Branch, tag or commit of a name on the Hub; null: its main branch."""

    quantization: Quantization | None = None
    """The base is quantised when it is loaded, with an adapter on it (QLoRA); null: as stored."""

    attn_implementation: str | None = None
    """How attention is computed, such as `sdpa`, `eager` or `flash_attention_2`; null: as transformers chooses."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the weights; auto: as the model was stored."""

    roles: Literal["auto", "plain", "none"] = "auto"
    """How turns are marked: the tokenizer's chat template, `User:` and `AI:`, or nothing (to see it fail)."""

    trust_remote_code: bool = False
    """Run Python code that comes with the model."""

    curriculum: tuple[CurriculumEntry, ...] = Field(min_length=1)
    """The tasks, in the order in which they are taught."""

    stream: Stream | None = None
    """The tasks are not announced: their rows come in chunks. null: task after task."""

    adapter: Adapter | None = Field(None, validate_default=True)
    """null: full fine-tuning."""

    start: str | None = None
    """The folder of a LoRA adapter to go on with; null: a fresh one."""

    training: Training

    arms: dict[str, Arm] = Field(
        default_factory=lambda: {name: Arm(**arm) for name, arm in DEFAULT_ARMS.items()},
        min_length=1,
        validate_default=True,
    )

    evaluate: Evaluate = Evaluate()

    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """Every arm is taught once for each; the report gives mean and standard deviation."""

    sweep: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Values to try for other keys, by dotted key; `curriculum` takes orders of the tasks."""

    keep: Literal["all", "last"] | None = Field(None, validate_default=True)
    """What is kept of the models after each task; null: all adapters, the last of full models."""

    output_dir: str = Field(min_length=1)

    _given: dict[str, Any] = PrivateAttr(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def _remember_what_was_given(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        recipe = handler(data)
        if isinstance(data, Mapping):
            recipe._given = dict(data)
        return recipe

    @field_validator("curriculum", mode="before")
    @classmethod
    def _name_alone_is_an_entry(cls, entries: Any) -> Any:
        if not isinstance(entries, list | tuple):
            return entries
        return [{"task": entry} if isinstance(entry, str) else entry for entry in entries]

    @field_validator("curriculum")
    @classmethod
    def _tasks_exist_once(
        cls, entries: tuple[CurriculumEntry, ...], info: ValidationInfo
    ) -> tuple[CurriculumEntry, ...]:
        wrong_with: Callable[[str], str | None] | None = (info.context or {}).get("wrong_with_task")
        problems = []
        seen: set[str] = set()
        for index, entry in enumerate(entries):
            message = f"task '{entry.task}' is in the curriculum twice" if entry.task in seen else None
            if entry.task in TAKEN:
                message = f"this is the name of {TAKEN[entry.task]}: one could not tell whom to ask"
            if message is None and wrong_with is not None and entry.remembered is None:
                message = wrong_with(entry.task)
            if message:
                problems.append(Problem((index,), message))
            seen.add(entry.task)
        if problems:
            raise problems_error(problems)
        return entries

    @field_validator("stream")
    @classmethod
    def _tasks_can_be_cut(cls, stream: Stream | None, info: ValidationInfo) -> Stream | None:
        entries = info.data.get("curriculum", ())
        own = [entry.task for entry in entries if entry.num_train_epochs or entry.rehearsal_samples]
        if stream is not None and own:
            told = f"{TOLD}, and {', '.join(own)} cannot have num_train_epochs or rehearsal_samples of their own"
            raise ValueError(told)
        gone = [entry.task for entry in entries if entry.remembered is not None]
        if stream is not None and gone:
            raise ValueError(f"the data of {', '.join(gone)} is gone, and cannot be cut into chunks")
        return stream

    @field_validator("adapter")
    @classmethod
    def _only_adapters_learn_on_a_quantized_base(cls, adapter: Adapter | None, info: ValidationInfo) -> Adapter | None:
        if adapter is None and info.data.get("quantization") is not None:
            raise ValueError(
                "is needed with `quantization`: quantised weights cannot be trained, only an adapter on them"
            )
        return adapter

    @field_validator("start")
    @classmethod
    def _starts_with_an_adapter(cls, start: str | None, info: ValidationInfo) -> str | None:
        if start is not None and info.data.get("adapter", Adapter()) is None:
            raise ValueError("is an adapter to go on with, and the recipe has no `adapter`")
        return start

    @field_validator("arms")
    @classmethod
    def _arms_fit(cls, arms: dict[str, Arm], info: ValidationInfo) -> dict[str, Arm]:
        # An adapter that is itself wrong is missing in info.data; specialists are then no further mistake.
        adapter = info.data.get("adapter", Adapter())
        entries = info.data.get("curriculum", ())
        gone = [entry.task for entry in entries if entry.remembered is not None]
        apart = [name for name, arm in arms.items() if arm.teach != "sequential"]
        if gone and apart:
            raise ValueError(
                f"{', '.join(apart)}: the data of {', '.join(gone)} is gone; only teach: sequential can go on"
            )
        anew = [name for name, arm in arms.items() if arm.start_from == "base"]
        if info.data.get("start") is not None and anew:
            raise problems_error(
                [Problem((n, "start_from"), "base would lose the adapter that `start` goes on with") for n in anew]
            )
        merged = [name for name, arm in arms.items() if arm.merges]
        if info.data.get("start") is not None and merged:
            told = "what `start` goes on with is in every specialist, and would count several times"
            raise problems_error([Problem((name, "teach"), told) for name in merged])
        tasks = {entry.task for entry in entries}
        arms = checked_arms(arms, info.data.get("training"), adapter, tasks)
        return unannounced(arms) if info.data.get("stream") else arms

    @field_validator("evaluate")
    @classmethod
    def _general_tasks_are_not_taught(cls, evaluate: Evaluate, info: ValidationInfo) -> Evaluate:
        taught = {entry.task for entry in info.data.get("curriculum", ())}
        problems = [
            Problem(("general", n), f"'{task}' is in the curriculum: what is taught shows no general ability")
            for n, task in enumerate(evaluate.general)
            if task in taught
        ]
        if problems:
            raise problems_error(problems)
        return evaluate

    @field_validator("seeds")
    @classmethod
    def _seeds_once(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed is given twice")
        return seeds

    @field_validator("sweep")
    @classmethod
    def _sweep_varies_settings(
        cls, sweep: dict[str, tuple[Any, ...]], info: ValidationInfo
    ) -> dict[str, tuple[Any, ...]]:
        problems = []
        for key, values in sweep.items():
            message = _wrong_with_swept_key(key, info.data.get("arms"))
            if message is None and not values:
                message = "give at least one value"
            if message:
                problems.append(Problem((key,), message))
        if problems:
            raise problems_error(problems)
        return sweep

    @field_validator("keep")
    @classmethod
    def _keep_what_is_light(cls, keep: str | None, info: ValidationInfo) -> str | None:
        return keep or ("all" if info.data.get("adapter") else "last")

    @property
    def name(self) -> str:
        """What the run is called: the last part of `output_dir`."""
        return Path(self.output_dir).name

    @property
    def origin(self) -> Origin:
        """The base model."""
        quantization = self.quantization.arguments if self.quantization is not None else None
        return Origin(
            self.model_name_or_path, self.revision, quantization, self.attn_implementation, self.trust_remote_code
        )

    @property
    def weights_dtype(self) -> str:
        """Precision of the weights: those of a whole model that is trained stay float32 unless told otherwise.

        In bfloat16 weights, the small steps of full fine-tuning would be rounded away.
        """
        return "float32" if self.dtype == "auto" and self.adapter is None else self.dtype

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in the order of the curriculum."""
        return tuple(entry.task for entry in self.curriculum)

    @property
    def measured(self) -> tuple[str, ...]:
        """Those of the tasks whose data is there: the columns of R."""
        return tuple(entry.task for entry in self.curriculum if entry.remembered is None)

    def training_of(self, arm: str, task: str | None = None) -> Training:
        """How an arm learns a task: the recipe's training, changed by the arm, then by the task's entry."""
        training = self.training.changed(self.arms[arm].training)
        entry = next((entry for entry in self.curriculum if entry.task == task), None)
        own = entry.model_dump(include={"max_samples", "num_train_epochs"}, exclude_none=True) if entry else {}
        return training.changed(own)

    def specialists_of(self, arm: Arm, seed: int, settings: Mapping[str, Any]) -> str:
        """``<arm>/<run>`` of the specialists that an arm asks: those of the same seed and sweep point."""
        # Specialists have no order, and what is swept of this arm is not swept of theirs.
        shared = {key: value for key, value in settings.items() if not key.startswith("arms.")}
        return f"{asked_of(arm, self.arms)}/{overriding.run_name(seed, shared)}"

    def resolved(self) -> dict[str, Any]:
        """Every setting with its value, as plain data; a recipe made from it has the same settings."""
        return self.model_dump(mode="json")

    def with_set(self, settings: Mapping[str, Any]) -> "Recipe":
        """This recipe at one point of its sweep.

        Args:
            settings: values by dotted key; that of `curriculum` is a list of task names.

        Raises:
            ContinualError: the values do not fit.
        """
        settings = dict(settings)
        if "curriculum" in settings:
            settings["curriculum"] = self._reordered(settings["curriculum"])
        data = overriding.apply({"arms": DEFAULT_ARMS, **self._given, "sweep": {}}, settings)
        try:
            return Recipe.model_validate(data)
        except ValidationError as error:
            problems = problems_of(error, Recipe, data)
            raise ContinualError(*(problem.message for problem in problems)) from None

    def _reordered(self, names: Any) -> list[dict[str, Any]]:
        entries = {entry.task: entry.model_dump(exclude_none=True) for entry in self.curriculum}
        if not isinstance(names, list | tuple) or sorted(map(str, names)) != sorted(entries):
            raise ContinualError(f"should be an order of the tasks {', '.join(entries)}")
        return [entries[name] for name in names]


def find_recipe(name_or_path: str) -> Path:
    """The file of a recipe: a path, or the name of a shipped one.

    Raises:
        ContinualError: there is none.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise ContinualError(f"{name_or_path}: no such file")
    found = shipped("recipes") / f"{name_or_path}.yaml"
    if not found.is_file():
        known = [one.stem for one in shipped_recipes()]
        near = did_you_mean(name_or_path, known)
        raise ContinualError(f"unknown recipe '{name_or_path}'{near} (continual ls recipes shows all)")
    return found


def shipped_recipes() -> list[Path]:
    """The files of all shipped recipes, by name."""
    return sorted(shipped("recipes").glob("*.yaml"))


def task_folders(recipe_file: Path, given: Sequence[Path] = ()) -> list[Path]:
    """Where a recipe's own tasks are looked for: the folders given, then ``tasks/`` beside the recipe.

    Raises:
        ContinualError: a folder that was given does not exist.
    """
    missing = [folder for folder in given if not folder.is_dir()]
    if missing:
        raise ContinualError(*(f"--tasks {folder}: no such folder" for folder in missing))
    beside = recipe_file.parent / "tasks"
    known = {folder.resolve() for folder in (*given, shipped("tasks"))}
    return [*given, *([beside] if beside.is_dir() and beside.resolve() not in known else [])]


def load_recipe(name_or_path: str, overrides: Sequence[str] = (), folders: Sequence[Path] = ()) -> Recipe:
    """Load a recipe, lay the overrides over it, and check everything at once.

    Args:
        name_or_path: a YAML file, or the name of a shipped recipe.
        overrides: texts ``dotted.key=value``.
        folders: further folders of tasks; see `task_folders`.

    Raises:
        ContinualError: with one line for every mistake.
    """
    path = find_recipe(name_or_path)
    document = yamlfile.load(path)
    changes = overriding.parse(overrides)
    data = document.data
    if isinstance(data, dict):
        if "pretrain" in data:
            hint = f"this recipe makes a base model; run it with: continual pretrain {name_or_path}"
            raise ContinualError(f"{document.at('pretrain')}: pretrain: {hint}")
        if changes:
            data = overriding.apply({"arms": DEFAULT_ARMS, **data}, changes)
        if "output_dir" not in data or (changes and "output_dir" not in changes):
            given = data.get("output_dir", f"runs/{path.stem}")
            data = {**data, "output_dir": f"{given}-{overriding.short_hash(changes)}" if changes else given}

    @functools.cache
    def index() -> "TaskIndex":
        from continual.task import TaskIndex

        return TaskIndex(folders)

    # Each point of a sweep asks again.
    @functools.cache
    def wrong_with_task(name: str) -> str | None:
        try:
            index().find(name)
        except ContinualError as error:
            return "; ".join(error.lines)
        return None

    context = {"wrong_with_task": wrong_with_task}
    recipe = yamlfile.validate(Recipe, document, data, context=context, overridden=list(changes))
    problems = [
        Problem(("sweep", key), f"{value}: {message}")
        for key, values in recipe.sweep.items()
        for value in values
        for message in _wrong_with_point(recipe, {key: value})
    ]
    if problems:
        raise ContinualError(*yamlfile.told(document, problems, list(changes)))
    return recipe


def _wrong_with_point(recipe: Recipe, settings: Mapping[str, Any]) -> Sequence[str]:
    try:
        recipe.with_set(settings)
    except ContinualError as error:
        return error.lines
    return ()


def _wrong_with_swept_key(key: str, arms: Mapping[str, Arm] | None) -> str | None:
    parts = key.split(".")
    if key in NOT_SWEPT:
        return f"cannot be swept{NOT_SWEPT[key]}"
    if parts[0] == "arms" and arms is not None and parts[1] not in arms:
        return f"there is no arm '{parts[1]}'{did_you_mean(parts[1], arms)}"
    for depth in range(1, len(parts) + 1):
        if annotation_at(Recipe, parts[:depth]) is None:
            return f"there is no setting '{'.'.join(parts[:depth])}'"
    asking = [
        name for name, arm in (arms or {}).items() if parts[0] == "arms" and asked_of(arm, arms or {}) == parts[1]
    ]
    if asking:
        told = "asks the specialists of this arm, and of several would not know which"
        return f"{asking[0]} {told}; give each value an arm of its own, or sweep the key of the recipe"
    return None
