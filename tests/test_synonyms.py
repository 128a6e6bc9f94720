"""What other tools call our commands and keys is understood, and hinted at."""

from pathlib import Path

import pytest

from continual import cli, synonyms
from continual.pretrain import PretrainRecipe
from continual.problems import suggestion
from continual.recipe import Recipe
from continual.settings import Adapter, Arm, Training
from continual.taskfile import TaskFile

COMMANDS = {name.replace("_", "-") for name in synonyms.COMMANDS}


def mistakes(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """The lines of an attempt that must fail with exit code 2."""
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()


def commands() -> set[str]:
    import typer

    return set(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("typed", "meant"), [("train", "run"), ("fine-tune", "run"), ("eval", "report"), ("Test", "check"), ("rnu", "run")]
)
def test_an_unknown_command_is_one_line_with_what_is_meant(
    typed: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (line,) = mistakes(capsys, typed, "quickstart")
    assert line == f"unknown command '{typed}'; did you mean '{meant}'? (continual --help shows all)"


def test_a_command_that_nothing_resembles_has_no_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert mistakes(capsys, "zzz") == ["unknown command 'zzz' (continual --help shows all)"]


def test_each_word_for_a_command_is_none_itself_and_stands_for_one() -> None:
    assert set(synonyms.COMMANDS.values()) <= commands()
    assert not commands() & COMMANDS


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("training.lr=1", "'learning_rate'"),
        ("training.LR=1", "'learning_rate'"),
        ("adapter.rank=8", "'r'"),
        ("adapter.alpha=8", "'lora_alpha'"),
        ("training.batch_size=8", "'per_device_train_batch_size' or 'tokens_per_batch'"),
        ("training.batch-size=8", "'per_device_train_batch_size' or 'tokens_per_batch'"),
        ("model=gpt2", "'model_name_or_path'"),
        ("epochs=3", "'training.num_train_epochs'"),
        ("training.rank=8", "'adapter.r'"),
        ("test={limit: 3}", "'evaluate'"),
        ("rehearsal={ratio: 1}", "'arms.NAME.rehearsal'"),
        ("arms.rehearsal.training.lr=1", "'learning_rate'"),
        ("lora.r=8", "'adapter'"),
    ],
)
def test_an_override_in_another_tools_words_is_told_ours(
    override: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (line,) = mistakes(capsys, "run", "quickstart", override)
    key = "lora" if override.startswith("lora.") else override.partition("=")[0]
    assert line == f"override: {key}: unknown key; did you mean {meant}?"


def test_a_file_in_other_tools_words_is_told_ours_line_by_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(
        "model_name_or_path: builtin:tinyworld\n"
        "curriculum: [edit]\n"
        "lora: {rank: 4}\n"
        "training:\n"
        "  learning_rate: 1e-3\n"
        "  epochs: 3\n"
        "  max_seq_length: 99\n"
    )
    assert mistakes(capsys, "validate", "mine.yaml") == [
        "mine.yaml:3: lora: unknown key; did you mean 'adapter'?",
        "mine.yaml:6: training.epochs: unknown key; did you mean 'num_train_epochs'?",
        "mine.yaml:7: training.max_seq_length: unknown key; did you mean 'max_length'?",
    ]


def test_a_key_of_the_group_itself_wins_over_another_tools_meaning() -> None:
    assert suggestion("rank", Adapter, Recipe) == "; did you mean 'r'?"
    assert "rank" in Arm.model_fields  # of a merge: there it is no synonym
    assert suggestion("lr", Training, Recipe) == "; did you mean 'learning_rate'?"
    assert suggestion("prompt", TaskFile, TaskFile) == "; did you mean 'doc_to_text'?"


def test_each_word_for_a_key_stands_for_one_that_exists() -> None:
    from continual.problems import _paths

    keys = {path[-1] for root in (Recipe, TaskFile, PretrainRecipe) for path in _paths(root)}
    assert {key for meant in synonyms.KEYS.values() for key in meant} <= keys
    assert all(name == name.lower().replace("-", "_") for name in (*synonyms.KEYS, *synonyms.COMMANDS))


def test_teaching_one_more_skill_hints_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (line,) = mistakes(capsys, "teach", "builtin:tinyworld", "edit", "training.lr=1")
    assert line == "training.lr: unknown key; did you mean 'learning_rate'?"
