import sys
import types
from pathlib import Path

import pytest
from pydantic import ValidationError

from continual.errors import ContinualError
from continual.problems import did_you_mean
from continual.recipe import Recipe, load_recipe, task_folders

TASKS = ("translate", "edit", "summarize", "answer", "sentiment")

GOOD = """\
model_name_or_path: builtin:tinyworld
curriculum: [translate, {task: edit, max_samples: 50, num_train_epochs: 2}]
adapter: {r: 8}
training: {learning_rate: 2e-3, tokens_per_batch: 1024, max_samples: 100}
arms:
  finetune: {teach: sequential}
  rehearsal: {rehearsal: {ratio: 0.1}}
  slow: {teach: multitask, training: {learning_rate: 1e-4}}
"""


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A registry of five names: what a recipe needs to know of tasks is whether they exist."""
    stand_in = types.ModuleType("continual.task")

    class TaskIndex:
        def __init__(self, folders=()):
            pass

        def find(self, name):
            if name not in TASKS:
                raise ContinualError(f"unknown task '{name}'{did_you_mean(name, TASKS)}")

    stand_in.TaskIndex = TaskIndex
    monkeypatch.setitem(sys.modules, "continual.task", stand_in)
    monkeypatch.chdir(tmp_path)


def load(text: str, *overrides: str) -> Recipe:
    Path("mine.yaml").write_text(text, encoding="utf-8")
    return load_recipe("mine.yaml", overrides)


def mistakes(text: str, *overrides: str) -> list[str]:
    with pytest.raises(ContinualError) as caught:
        load(text, *overrides)
    return list(caught.value.lines)


def test_five_mistakes_are_five_lines():
    text = """\
model_name_or_path: builtin:tinyworld
curriculum: [translate, sumarize]
adapter: {r: 0}
training:
  leraning_rate: 1e-4
  learning_rate: 1e-4
  tokens_per_batch: 4096
  per_device_train_batch_size: 8
arms:
  mine: {teach: multitask, rehearsal: {ratio: 0.2}}
"""
    assert mistakes(text) == [
        "mine.yaml:2: curriculum.1: unknown task 'sumarize'; did you mean 'summarize'?",
        "mine.yaml:3: adapter.r: Input should be greater than or equal to 1",
        "mine.yaml:5: training.leraning_rate: unknown key; did you mean 'learning_rate'?",
        "mine.yaml:7: training.tokens_per_batch: give either tokens_per_batch or per_device_train_batch_size,"
        " not both",
        "mine.yaml:10: arms.mine.rehearsal: multitask has no earlier tasks to rehearse; only teach: sequential has",
    ]


def test_a_recipe_without_arms_has_rehearsal():
    recipe = load("model_name_or_path: m\ncurriculum: [edit]\ntraining: {learning_rate: 1}\n")
    assert list(recipe.arms) == ["rehearsal"]
    assert recipe.arms["rehearsal"].teach == "sequential"
    assert recipe.arms["rehearsal"].rehearsal is not None
    changed = load(
        "model_name_or_path: m\ncurriculum: [edit]\ntraining: {learning_rate: 1}\n",
        "arms.rehearsal.rehearsal.ratio=0.4",
    )
    assert changed.arms["rehearsal"].rehearsal.ratio == 0.4


def test_defaults_depend_on_what_is_trained():
    assert load(GOOD).keep == "all"
    assert load(GOOD, "adapter=null").keep == "last"
    assert load(GOOD, "adapter=null", "keep=all").keep == "all"
    assert load(GOOD).output_dir == "runs/mine"


@pytest.mark.parametrize(
    ("given", "tokens", "rows"),
    [
        ("{learning_rate: 1}", 4096, None),
        ("{learning_rate: 1, tokens_per_batch: 64}", 64, None),
        ("{learning_rate: 1, per_device_train_batch_size: 4, gradient_accumulation_steps: 2}", None, 4),
    ],
)
def test_a_batch_has_one_size(given, tokens, rows):
    training = load(f"model_name_or_path: m\ncurriculum: [edit]\ntraining: {given}\n").training
    assert (training.tokens_per_batch, training.per_device_train_batch_size) == (tokens, rows)


def test_accumulation_needs_rows():
    lines = mistakes(GOOD, "training.gradient_accumulation_steps=2")
    assert len(lines) == 1
    assert lines[0].startswith("override: training.gradient_accumulation_steps: needs per_device_train_batch_size")


def test_training_of_an_arm_and_a_task():
    recipe = load(GOOD)
    assert recipe.training_of("finetune", "translate").learning_rate == 2e-3
    assert recipe.training_of("slow").learning_rate == 1e-4
    edit = recipe.training_of("slow", "edit")
    assert (edit.learning_rate, edit.max_samples, edit.num_train_epochs) == (1e-4, 50, 2)
    assert recipe.training_of("finetune", "translate").max_samples == 100


def test_an_arm_may_size_its_batches_otherwise():
    recipe = load(GOOD, "arms.slow.training={per_device_train_batch_size: 4, gradient_accumulation_steps: 2}")
    own = recipe.training_of("slow")
    assert (own.tokens_per_batch, own.per_device_train_batch_size, own.gradient_accumulation_steps) == (
        None,
        4,
        2,
    )
    assert recipe.training_of("finetune").tokens_per_batch == 1024


def test_mistakes_in_an_arms_training_have_their_line():
    text = GOOD.replace("{learning_rate: 1e-4}", "{learning_rat: 1e-4, num_train_epochs: 0}")
    assert mistakes(text) == [
        "mine.yaml:8: arms.slow.training.learning_rat: unknown key; did you mean 'learning_rate'?",
        "mine.yaml:8: arms.slow.training.num_train_epochs: Input should be greater than or equal to 1",
    ]


def test_arms_share_their_rows():
    assert mistakes(GOOD.replace("{learning_rate: 1e-4}", "{max_samples: 7}")) == [
        "mine.yaml:8: arms.slow.training.max_samples: is the same for all arms; set training.max_samples"
    ]


def test_specialists_need_an_adapter():
    text = GOOD.replace("adapter: {r: 8}\n", "").replace("teach: multitask", "teach: specialists")
    assert mistakes(text) == ["mine.yaml:7: arms.slow.teach: specialists are adapters; the recipe has no `adapter`"]


def test_a_wrong_adapter_is_not_also_a_missing_one():
    text = GOOD.replace("{r: 8}", "{r: x}").replace("teach: multitask", "teach: specialists")
    assert len(mistakes(text)) == 1


def test_arms_name_folders():
    assert mistakes(GOOD.replace("slow:", "../slow:"))[0].startswith("mine.yaml:8: arms.../slow: an arm's name")


@pytest.mark.parametrize("name", ["base", "auto", "edit"])
def test_an_arm_has_no_name_by_which_another_is_asked(name):
    (line,) = mistakes(GOOD.replace("slow:", f"{name}:"))
    assert line.startswith(f"mine.yaml:8: arms.{name}: this is the name of")


@pytest.mark.parametrize("name", ["base", "auto"])
def test_a_task_has_no_name_by_which_another_is_asked(name):
    (line,) = mistakes(GOOD.replace("[translate,", f"[{name},"))
    assert line.startswith("mine.yaml:2: curriculum.0: this is the name of")


def test_a_task_comes_once():
    assert mistakes(GOOD.replace("[translate,", "[edit, translate,")) == [
        "mine.yaml:2: curriculum.2: task 'edit' is in the curriculum twice"
    ]


def test_preset_lamol_and_what_wins_over_it():
    lamol = load(GOOD, "arms.rehearsal.rehearsal={preset: lamol}").arms["rehearsal"].rehearsal
    assert (lamol.budget, lamol.passes, lamol.cue, lamol.cue_dropout) == ("new_task", "two", "task", 0.0)
    assert (lamol.top_up, lamol.checks, lamol.lm_lambda, lamol.top_k) == (False, ("parses",), 0.25, 20)
    mixed = load(GOOD, "arms.rehearsal.rehearsal={preset: lamol, cue: shared, top_up: true}").arms["rehearsal"]
    assert (mixed.rehearsal.cue, mixed.rehearsal.top_up, mixed.rehearsal.passes) == ("shared", True, "two")


# Overrides


def test_overrides_are_laid_over_the_file():
    recipe = load(GOOD, "training.learning_rate=1e-4", "evaluate.limit=20", "seed=3", "curriculum.1.max_samples=7")
    assert recipe.training.learning_rate == 1e-4
    assert recipe.evaluate.limit == 20
    assert recipe.seeds == (3,)
    assert recipe.curriculum[1].max_samples == 7


def test_an_override_is_split_at_its_first_equals_sign():
    assert load(GOOD, "model_name_or_path=a=b").model_name_or_path == "a=b"


def test_an_override_makes_the_groups_on_its_way():
    assert load(GOOD.replace("adapter: {r: 8}\n", "adapter: null\n"), "adapter.r=4").adapter.r == 4


def test_overrides_write_to_a_folder_of_their_own():
    one, same, other = (
        load(GOOD, "seed=3", "adapter.r=4").output_dir,
        load(GOOD, "adapter.r=4", "seeds=[3]").output_dir,
        load(GOOD, "adapter.r=5", "seed=3").output_dir,
    )
    assert one == same != other
    assert one.startswith("runs/mine-") and len(one) == len("runs/mine-") + 8
    assert load(GOOD, "seed=3", "output_dir=elsewhere").output_dir == "elsewhere"
    assert load(GOOD + "output_dir: out/x\n", "seed=3").output_dir.startswith("out/x-")


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "training.lerning_rate=1",
            "override: training.lerning_rate: unknown key; did you mean 'learning_rate'?",
        ),
        (
            "learning_rate=1e-4",
            "override: learning_rate: unknown key; did you mean 'training.learning_rate'?",
        ),
        ("training.learning_rate=fast", "override: training.learning_rate: Input should be a valid number"),
        (
            "arms.rehersal.teach=multitask",
            "override: arms.rehersal.teach: there is no arm 'rehersal'; did you mean",
        ),
        ("dtype.x=1", "override: dtype.x: dtype is a single value"),
        ("curriculum.9.task=edit", "override: curriculum.9.task: curriculum is a list of 2"),
        ("fast", "override: fast: should be key=value"),
        ("=1", "override: =1: should be key=value"),
        ("a..b=1", "override: a..b=1: should be key=value"),
        ("seeds=[1", "override: seeds: not valid YAML"),
        ("seed=x", "override: seeds.0: Input should be a valid integer"),
        (
            "curriculum=[sentimnt]",
            "override: curriculum.0: unknown task 'sentimnt'; did you mean 'sentiment'?",
        ),
    ],
)
def test_mistakes_in_overrides(override, line):
    text = GOOD + "dtype: auto\n"
    lines = mistakes(text, override)
    assert len(lines) == 1 and lines[0].startswith(line)


def test_an_override_given_twice_is_refused():
    assert mistakes(GOOD, "seed=1", "seeds=[2]") == ["override: seeds: is given twice"]


# Sweeps


def test_sweep_mistakes_are_told_with_their_line():
    text = GOOD + (
        "sweep:\n  training.learning_rat: [1]\n  seeds: [[1]]\n  arms.nobody.teach: [multitask]\n  adapter.r: []\n"
    )
    assert mistakes(text) == [
        "mine.yaml:10: sweep.training.learning_rat: there is no setting 'training.learning_rat'",
        "mine.yaml:11: sweep.seeds: cannot be swept; seeds have a key of their own",
        "mine.yaml:12: sweep.arms.nobody.teach: there is no arm 'nobody'",
        "mine.yaml:13: sweep.adapter.r: give at least one value",
    ]


def test_the_base_cannot_be_swept():
    assert mistakes(GOOD + "sweep: {model_name_or_path: [a, b]}\n") == [
        "mine.yaml:9: sweep.model_name_or_path: cannot be swept: all that a run leaves stands on one base model; "
        "make a run for each"
    ]


@pytest.mark.parametrize(
    "asking", ["teach: merge, method: ties", "teach: distill, of: slow", "rehearsal: {distill: {teacher: specialist}}"]
)
def test_specialists_that_others_ask_cannot_be_swept(asking):
    text = GOOD.replace("teach: multitask", "teach: specialists, rehearsal: {}") + "  all: {" + asking + "}\n"
    (line,) = mistakes(text + "sweep: {arms.slow.training.learning_rate: [1, 2]}\n")
    assert line.startswith(
        "mine.yaml:10: sweep.arms.slow.training.learning_rate: all asks the specialists of this arm"
    )
    assert load(text + "sweep: {training.learning_rate: [1, 2]}\n").sweep
    assert load(text + "sweep: {arms.finetune.training.learning_rate: [1, 2]}\n").sweep


def test_swept_values_must_fit():
    text = GOOD + "sweep:\n  adapter.r: [4, 0]\n  curriculum: [[edit, translate], [edit]]\n"
    assert mistakes(text) == [
        "mine.yaml:10: sweep.adapter.r: 0: Input should be greater than or equal to 1",
        "mine.yaml:11: sweep.curriculum: ['edit']: should be an order of the tasks translate, edit",
    ]


def test_a_point_of_a_sweep_keeps_what_a_task_was_given():
    recipe = load(GOOD + "sweep: {curriculum: [[edit, translate]]}\n")
    turned = recipe.with_set({"curriculum": ["edit", "translate"], "adapter.r": 2})
    assert turned.tasks == ("edit", "translate")
    assert turned.curriculum[0].max_samples == 50
    assert turned.adapter.r == 2 and recipe.adapter.r == 8
    assert turned.sweep == {}


def test_a_preset_can_be_swept():
    recipe = load(GOOD.replace("{ratio: 0.1}", "{preset: lamol}"))
    assert recipe.with_set({"arms.rehearsal.rehearsal.preset": None}).arms["rehearsal"].rehearsal.passes == "one"


# The whole


def test_resolved_settings_make_the_same_recipe():
    text = GOOD.replace("{ratio: 0.1}", "{preset: lamol}") + "sweep: {adapter.r: [1, 2]}\n"
    for recipe in (load(text), load(text, "training={learning_rate: 1, per_device_train_batch_size: 2}")):
        assert Recipe.model_validate(recipe.resolved()).resolved() == recipe.resolved()


def test_a_recipe_cannot_be_changed():
    recipe = load(GOOD)
    with pytest.raises(ValidationError):
        recipe.dtype = "float32"


def test_unknown_recipes_are_refused_with_the_nearest():
    with pytest.raises(ContinualError, match="unknown recipe 'quickstat'; did you mean 'quickstart'?"):
        load_recipe("quickstat")
    with pytest.raises(ContinualError, match=r"folder/x\.yaml: no such file"):
        load_recipe("folder/x.yaml")


def test_pretraining_recipes_are_sent_to_their_command():
    assert mistakes("# base\npretrain: {}\n") == [
        "mine.yaml:2: pretrain: this recipe makes a base model; run it with: continual pretrain mine.yaml"
    ]


def test_a_recipes_own_tasks_lie_beside_it(tmp_path):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "more").mkdir()
    assert task_folders(tmp_path / "mine.yaml", [tmp_path / "more"]) == [
        tmp_path / "more",
        tmp_path / "tasks",
    ]
    with pytest.raises(ContinualError, match="--tasks nowhere: no such folder"):
        task_folders(tmp_path / "mine.yaml", [Path("nowhere")])


def test_an_adapter_to_go_on_with_is_not_thrown_away() -> None:
    data = {"model_name_or_path": "m", "curriculum": ["edit"], "training": {"learning_rate": 1}, "output_dir": "o"}
    arms = {"a": {"start_from": "base"}}
    with pytest.raises(ValidationError, match="a.start_from: base would lose the adapter"):
        Recipe.model_validate({**data, "adapter": {}, "start": "elsewhere", "arms": arms})
    Recipe.model_validate({**data, "adapter": {}, "arms": arms})
