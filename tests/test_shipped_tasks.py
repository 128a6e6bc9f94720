"""Every shipped task file reads, and asks the same of a row from the Hub and of its local copy.

The rows in fixtures/task_rows.json are made up, in the columns of the real data sets.
"""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from continual import sources
from continual.paths import shipped
from continual.score import score
from continual.task import Task, list_tasks, read_task

FILES = sorted(shipped("tasks").rglob("*.yaml"))
ROWS = json.loads((Path(__file__).parent / "fixtures" / "task_rows.json").read_text(encoding="utf-8"))
COUNTS = {"lamol": 5, "textclass": 5, "olora15": 15, "trace": 8, "glue": 9, "edit": 1}

shipped_files = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


@pytest.fixture
def from_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(sources.DATA_ROOT, raising=False)
    monkeypatch.setattr(
        sources, "_from_hub", lambda path, name, kwargs, split: pytest.fail("asked the Hub for a local copy")
    )


def data_root(task: Task, folder: Path) -> Path:
    file = folder / f"{task.metadata['local']['path']}.test.jsonl.gz"
    file.parent.mkdir(parents=True)
    with gzip.open(file, "wt", encoding="utf-8") as stream:
        stream.write(json.dumps(ROWS[task.task]["local"], ensure_ascii=False) + "\n")
    return folder


def test_every_family_is_complete_and_no_name_is_used_twice() -> None:
    tasks = list_tasks()
    assert len({task.task for task in tasks}) == len(FILES)
    for family, count in COUNTS.items():
        assert len([task for task in tasks if task.family == family]) == count


@shipped_files
def test_file_is_named_after_its_task_and_says_what_it_is(path: Path) -> None:
    task = read_task(path)
    assert path.stem == task.task
    assert task.summary and task.tag
    assert task.metric_list, "a shipped task names its metric"


@shipped_files
def test_row_of_the_data_set_renders_as_recorded(path: Path, from_hub: None, monkeypatch: pytest.MonkeyPatch) -> None:
    task = read_task(path)
    if task.dataset_path == "python":
        return
    row = ROWS[task.task]
    monkeypatch.setattr(sources, "_from_hub", lambda *_: [row["hub"]])
    rendered = task._pool("test", None).in_memory
    assert [message.content for message in rendered[0].messages] == [row["prompt"], row["answer"]]
    assert not task.labels or row["answer"] in task.labels


@shipped_files
def test_row_of_the_local_copy_gives_the_same_sample(
    path: Path, from_hub: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    task = read_task(path)
    if task.dataset_path == "python":
        return
    copied = task.samples("test", data_root=data_root(task, tmp_path))
    monkeypatch.setattr(sources, "_from_hub", lambda *_: [ROWS[task.task]["hub"]])
    # Not every copy names the dialogue that a turn is of.
    assert copied == [replace(sample, dialogue=copied[n].dialogue) for n, sample in enumerate(task.samples("test"))]


@shipped_files
def test_every_wording_renders_and_the_answer_itself_scores_full_marks(
    path: Path, from_hub: None, tmp_path: Path
) -> None:
    task = read_task(path)
    root = tmp_path if task.dataset_path == "python" else data_root(task, tmp_path)
    pool = task._pool("test", root)
    renderer, rendered = pool.renderer, pool.in_memory
    prompts = {renderer.sample(rendered[0], index).prompt[0].content for index in range(len(renderer.texts))}
    assert len(prompts) == len(task.doc_to_text)
    for prompt in prompts:
        assert prompt.strip() and "\\n\\n" not in prompt and "{{" not in prompt and "}}" not in prompt
    samples = [renderer.sample(one, 0) for one in rendered[:20]]
    if task.metric not in ("mcc", "pearson"):
        assert score(task.metric, [one.answer for one in samples], samples) == pytest.approx(1, abs=0.02)
