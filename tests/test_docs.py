"""The pages that users read name every setting, and what they show is right."""

import ast
import importlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from continual.evaluate_settings import Evaluate
from continual.guard_settings import Guard
from continual.pretrain import Corpus, PretrainSettings, Sizes, Vocabulary
from continual.recipe import Recipe, load_recipe
from continual.rehearsal_settings import Distill, Rehearsal
from continual.remembered import Remembered
from continual.score import METRICS
from continual.settings import Adapter, Arm, CurriculumEntry, Quantization, Training
from continual.stream_settings import Stream
from continual.task import list_tasks, read_task
from continual.taskfile import UNSUPPORTED, Generation, Local, Metadata, Metric, TaskFile

ROOT = Path(__file__).parent.parent
RECIPES = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
TASKS = (ROOT / "docs/tasks.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])

# Defaults that another setting makes, or that a page says in words.
IN_WORDS = {
    "arms": "see meaning",
    "evaluate": "see meaning",
    "output_dir": "runs/NAME",
    "target_delimiter": "one space",
}


def tables(page: str) -> dict[str, dict[str, list[str]]]:
    """Heading, or what the first column is called, -> key -> the other cells. Code marks are left out."""
    found: dict[str, dict[str, list[str]]] = {}
    heading, rows = "", {}
    for line in page.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        if not line.startswith("|"):
            rows = {}  # a table without keys is nobody's
        cells = [cell.strip() for cell in line.strip("|").split(" | ")] if line.startswith("|") else []
        if cells and cells[0].startswith("key"):
            name = cells[0].removeprefix("key").removeprefix(" of ").strip("`")
            rows = found.setdefault(name or heading, {})
        elif cells and cells[0].startswith("`"):
            rows[cells[0].strip("`")] = cells[1:]
    return found


OF_RECIPE: dict[str, type[BaseModel]] = {
    "The recipe": Recipe,
    "An entry of the curriculum": CurriculumEntry,
    "stream": Stream,
    "adapter": Adapter,
    "quantization": Quantization,
    "training": Training,
    "An arm": Arm,
    "rehearsal": Rehearsal,
    "distill": Distill,
    "guard": Guard,
    "remembered": Remembered,
    "evaluate": Evaluate,
    "pretrain": PretrainSettings,
    "corpus": Corpus,
    "tokenizer": Vocabulary,
    "model": Sizes,
}
OF_TASK: dict[str, type[BaseModel]] = {
    "The keys": TaskFile,
    "generation_kwargs": Generation,
    "an entry of `metric_list": Metric,
}
DOCUMENTED = [(RECIPES, *item) for item in OF_RECIPE.items()] + [(TASKS, *item) for item in OF_TASK.items()]


def default_of(model: type[BaseModel], name: str) -> str:
    """A default as YAML writes it, or `required`."""
    if name in IN_WORDS and model in (Recipe, TaskFile):
        return IN_WORDS[name]
    field = model.model_fields[name]
    if field.is_required():
        return "required"
    value: Any = field.default if field.default is not PydanticUndefined else field.default_factory()  # type: ignore
    if isinstance(value, BaseModel):
        value = {}
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return value if isinstance(value, str) else json.dumps(value)


@pytest.mark.parametrize(("page", "heading", "model"), DOCUMENTED, ids=[heading for _, heading, _ in DOCUMENTED])
def test_each_key_stands_in_its_table_with_its_default(page: str, heading: str, model: type[BaseModel]) -> None:
    told = {key: cells[0] for key, cells in tables(page)[heading].items()}
    assert told == {name: default_of(model, name) for name in model.model_fields}


@pytest.mark.parametrize(("heading", "keys"), [("metadata", Metadata), ("metadata.local", Local)])
def test_each_key_of_the_metadata_stands_in_its_table(heading: str, keys: Any) -> None:
    assert set(tables(TASKS)[heading]) == set(keys.__annotations__)


def test_a_key_that_a_table_lacks_is_noticed() -> None:
    shorter = RECIPES.replace("| `save_steps` |", "| `saved_steps` |")
    assert "save_steps" in tables(RECIPES)["training"]
    assert "save_steps" not in tables(shorter)["training"]


def test_the_page_on_tasks_names_every_refused_key_and_every_metric() -> None:
    assert not [key for key in UNSUPPORTED if f"`{key}`" not in TASKS]
    assert not [name for name in METRICS if f"| `{name}` |" not in TASKS]


def test_the_page_on_tasks_says_where_each_shipped_task_is_looked_for() -> None:
    for task in list_tasks():
        (line,) = [line for line in TASKS.splitlines() if line.startswith(f"| `{task.task}` |")]
        assert line.endswith(f" {task.metric} |")
        if "local" in task.metadata:
            assert f"| {task.dataset_path}" in line and f"| `{task.metadata['local']['path']}` |" in line


def examples() -> list[tuple[Path, str]]:
    """Every block of YAML in a page."""
    blocks = [(page, re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.S)) for page in PAGES]
    return [(page, block) for page, found in blocks for block in found]


EXAMPLES = examples()


@pytest.mark.parametrize(("page", "block"), EXAMPLES, ids=[f"{page.name}-{i}" for i, (page, _) in enumerate(EXAMPLES)])
def test_each_example_of_a_task_or_recipe_is_right(page: Path, block: str, tmp_path: Path) -> None:
    file = tmp_path / "example.yaml"
    file.write_text(block, encoding="utf-8")
    if "task" in yaml.safe_load(block):
        read_task(file)
    else:
        load_recipe(str(file))


def imports() -> list[tuple[str, str]]:
    """Every name that an example in Python takes from this package."""
    blocks = [b for page in PAGES for b in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)]
    nodes = [node for block in blocks for node in ast.walk(ast.parse(block)) if isinstance(node, ast.ImportFrom)]
    ours = [(str(node.module), alias.name) for node in nodes for alias in node.names]
    return sorted({(module, name) for module, name in ours if module.startswith("continual.")})


@pytest.mark.parametrize(("module", "name"), imports())
def test_each_name_that_an_example_imports_exists(module: str, name: str) -> None:
    assert name in vars(importlib.import_module(module))


def commands() -> list[str]:
    """Every `continual run` of a shipped recipe that a page shows."""
    lines = [line for page in PAGES for line in page.read_text(encoding="utf-8").splitlines()]
    return [line.strip() for line in lines if re.match(r"\s*continual run [a-z]", line)]


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_each_run_that_a_page_shows_is_a_valid_recipe(command: str, tmp_path: Path) -> None:
    _, _, name, *words = shlex.split(command, comments=True)
    if "--tasks" in words:  # a task that the reader has just written
        (own,) = [block for page, block in EXAMPLES if page.name == "README.md" and block.startswith("task:")]
        (tmp_path / "own.yaml").write_text(own, encoding="utf-8")
    load_recipe(name, [word for word in words if "=" in word], [tmp_path])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_link_inside_the_repository_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.S))
    for target in targets:
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file) if file else page
        assert there.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.M)
            assert anchor in {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_number_is_still_to_be_filled_in(page: Path) -> None:
    assert "{{RESULTS}}" not in page.read_text(encoding="utf-8")
