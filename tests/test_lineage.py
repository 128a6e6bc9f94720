"""What lies in the folders that a run leaves behind: models that others load, a manifest, and a card."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import make_world, recipe, teach

from continual import lineage
from continual.card import adapter_card, is_hub_name
from continual.listing import find_run
from continual.runs import read_json

ARMS = {"rehearsal": {"rehearsal": {"ratio": 0.2, "max_tries": 2}}, "apart": {"teach": "specialists"}}
CHEAP: dict[str, Any] = {
    "training": {"learning_rate": 2e-2, "num_train_epochs": 2, "tokens_per_batch": 256, "max_length": 48},
    "evaluate": {"limit": 2},
}
FOLDERS = ["rehearsal/seed0/after/1", "rehearsal/seed0/after/2", "apart/seed0/specialists/legs"]
IDS = torch.arange(20)[None]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = make_world(tmp_path_factory.mktemp("lineage"))
    return teach(world, arms=ARMS, adapter={"r": 4}, **CHEAP)


@pytest.mark.parametrize("name", FOLDERS)
def test_transformers_and_peft_load_each_folder_as_it_is(
    run: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.chdir(tmp_path)  # an adapter is loaded from anywhere
    folder = run / "arms" / name
    base = AutoModelForCausalLM.from_pretrained(run.parent / "model").eval()
    untaught = base(IDS).logits
    expected = PeftModel.from_pretrained(base, folder).eval()(IDS).logits
    assert (AutoModelForCausalLM.from_pretrained(folder).eval()(IDS).logits - expected).abs().max() == 0.0
    assert (untaught - expected).abs().max() > 0.01
    assert AutoTokenizer.from_pretrained(folder).chat_template


@pytest.mark.parametrize(("roles", "words"), [("auto", "the base's chat template"), ("plain", "`User:` and `AI:`")])
def test_manifest_and_cards_name_the_form_that_the_folder_s_template_renders(
    world: Path, roles: str, words: str
) -> None:
    run = teach(world, arms={"plain": {}}, curriculum=["legs"], adapter={"r": 2}, roles=roles, **CHEAP)
    folder = run / "arms/plain/seed0/after/1"
    form = read_json(folder / lineage.FILE)["form"]
    assert form["template_sha256"] == lineage.sha256(folder / "chat_template.jinja")
    assert (form["name"], form["of_base"]) == (("template", True) if roles == "auto" else ("plain", False))
    for text in (folder / "README.md", run / "README.md", run / "report.html"):
        assert words.replace("'", "&#39;" if text.suffix == ".html" else "'") in text.read_text()


def test_a_base_is_named_from_the_root(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    run = teach(world, model_name_or_path="model", arms={"plain": {}}, curriculum=["legs"], adapter={"r": 2}, **CHEAP)
    told = read_json(run / "arms/plain/seed0/after/1/adapter_config.json")
    assert told["base_model_name_or_path"] == str(world / "model")


@pytest.mark.parametrize("name", FOLDERS)
def test_the_manifest_has_the_hash_of_every_file_that_others_load(run: Path, name: str) -> None:
    folder = run / "arms" / name
    files = read_json(folder / lineage.FILE)["files"]
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= set(files)
    assert not {"trained.json", "methods.json", "README.md", "manifest.json"} & set(files)
    for file, known in files.items():
        assert hashlib.sha256((folder / file).read_bytes()).hexdigest() == known


def test_the_manifest_tells_who_taught_it_what_and_how_well(run: Path) -> None:
    told = read_json(run / "arms/rehearsal/seed0/after/2" / lineage.FILE)
    whole = read_json(run / "manifest.json")
    record = read_json(run / "arms/rehearsal/seed0/run.json")
    assert (told["name"], told["base"], told["tasks"]) == ("rehearsal", str(run.parent / "model"), ["sound", "legs"])
    assert told["run"] == {
        "name": whole["name"],
        "recipe_hash": whole["recipe_hash"],
        "arm": "rehearsal",
        "teach": "sequential",
        "seed": 0,
        "set": {},
    }
    assert told["data"] == whole["data"] and told["versions"] == whole["versions"]
    assert list(told["scores"]["own"].values()) == record["R"][2]
    assert list(told["scores"]["base"].values()) == record["R"][0]
    assert told["settings"]["adapter"]["r"] == 4 and told["settings"]["training"]["num_train_epochs"] == 2


def test_what_came_before_is_the_parent_by_its_weights(run: Path) -> None:
    first, second = (run / "arms/rehearsal/seed0/after" / number for number in "12")
    assert read_json(first / lineage.FILE)["parents"] == []
    assert read_json(second / lineage.FILE)["parents"] == [
        {
            "name": "arms/rehearsal/seed0/after/1",
            "sha256": hashlib.sha256((first / "adapter_model.safetensors").read_bytes()).hexdigest(),
        }
    ]
    assert read_json(first / lineage.FILE)["name"] == "rehearsal-after-1"


def test_a_specialist_knows_its_own_task_alone(run: Path) -> None:
    told = read_json(run / "arms/apart/seed0/specialists/legs" / lineage.FILE)
    assert (told["tasks"], list(told["data"]), told["parents"]) == (["legs"], ["legs"], [])
    assert list(told["scores"]["own"]) == ["legs"] and told["scores"]["own"]["legs"] is not None


def test_parents_that_a_way_of_teaching_names_win(run: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    state, parent = copy / "arms/rehearsal/seed0/after/2", "arms/apart/seed0/specialists/legs"
    (state / lineage.FILE).unlink()
    trained = read_json(state / lineage.TRAINED)
    (state / lineage.TRAINED).write_text(json.dumps({**trained, "parents": [parent, "gone"]}))
    lineage.describe(copy)
    known = lineage.identity(copy / parent)
    assert known is not None
    assert read_json(state / lineage.FILE)["parents"] == [
        {"name": parent, "sha256": known},
        {"name": "gone", "sha256": None},
    ]


def test_describing_again_keeps_what_is_gone_by_now(run: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    state = copy / "arms/rehearsal/seed0/after"
    before = (state / "2" / lineage.FILE).read_bytes()
    shutil.rmtree(state / "1")
    lineage.describe(copy)
    assert (state / "2" / lineage.FILE).read_bytes() == before


def test_whole_models_have_both_too(world: Path) -> None:
    folder = teach(world, arms={"plain": {}}, curriculum=["legs"], **CHEAP) / "arms/plain/seed0/after/1"
    assert {"config.json", "model.safetensors"} <= set(read_json(folder / lineage.FILE)["files"])
    assert (folder / lineage.CARD).read_text().startswith("---\nlibrary_name: transformers\n")


def test_a_model_with_a_manifest_is_no_run(run: Path) -> None:
    with pytest.raises(Exception, match="no run in"):
        find_run(str(run / "arms/rehearsal/seed0/after/2"))


def card_of(**changes: Any) -> str:
    told = {
        "name": "legs",
        "base": "org/small",
        "run": {"name": "mine", "recipe_hash": "abc", "arm": "a", "teach": "sequential", "seed": 3, "set": {"x": 1}},
        "settings": {"adapter": {"r": 4}},
        "tasks": ["sound", "legs"],
        "data": {"legs": "0123"},
        "metrics": {"legs": "acc"},
        "scores": {
            "base": {"sound": 0.25, "legs": None, "first": 0.0},
            "own": {"sound": 1.0, "legs": 0.5, "first": 0},
        },
        "parents": [{"name": "before", "sha256": "f" * 64}],
        "versions": {"peft": "1"},
        "files": {"adapter_config.json": "", "adapter_model.safetensors": ""},
    }
    return adapter_card({**told, **changes})


def front(card: str) -> dict[str, Any]:
    return dict(yaml.safe_load(card.split("---\n")[1]))


def test_the_card_says_base_library_scores_and_lineage() -> None:
    card = card_of()
    assert front(card) == {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "base_model": "org/small",
        "tags": ["continual", "continual-learning", "lora"],
    }
    assert "| `sound` |  | 25.0 | 100.0 |" in card and "| `legs` | acc |  | 50.0 |" in card
    assert "| `first`, not taught |  | 0.0 | 0.0 |" in card
    for words in ("taught `sound`, `legs`, in this order,", "seed 3, `x=1`", "parent: `before` (`ffffffffffffffff`)"):
        assert words in card


def test_a_base_that_is_a_folder_stays_out_of_what_the_hub_checks() -> None:
    card = card_of(base="/some/where")
    assert "base_model" not in front(card) and "not on the Hub" in card
    assert [is_hub_name(n) for n in ("gpt2", "a/b-1.5", "/a", "a/b/c", "builtin:x", "./a")] == [True, True] + [
        False
    ] * 4


def test_the_card_of_a_model_from_elsewhere_says_little() -> None:
    card = adapter_card({"name": "theirs", "base": None, "files": {"adapter_config.json": ""}})
    assert "# theirs" in card and "Scores" not in card and "comes from" not in card


def test_a_run_says_what_other_programs_will_not_load(world: Path) -> None:
    from io import StringIO

    from rich.console import Console

    from continual import execute

    console = Console(file=StringIO(), width=200)
    made = recipe(world, arms={"plain": {}}, curriculum=["legs"], adapter={"r": 32, "use_rslora": True}, **CHEAP)
    execute.run(made, data_root=None, task_folders=[world / "tasks"], fresh=False, console=console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "mind: adapter.use_rslora: llama.cpp would scale it wrongly" in said and "mind: adapter.r: vLLM" in said


def test_a_merged_model_names_its_specialists_as_parents(world: Path) -> None:
    arms = {"apart": {"teach": "specialists"}, "one": {"teach": "merge", "method": "linear", "scale": 1.0}}
    run = teach(world, arms=arms, adapter={"r": 2}, **CHEAP)
    told = read_json(run / "arms/one/seed0/after/1" / lineage.FILE)
    parents = [f"arms/apart/seed0/specialists/{task}" for task in ("sound", "legs")]
    assert told["parents"] == [{"name": name, "sha256": lineage.identity(run / name)} for name in parents]
    assert all(one["sha256"] for one in told["parents"]) and "merge.json" in told["files"]
