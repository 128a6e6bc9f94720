"""`continual merge`: finds the adapters, writes an adapter or a model with its card, or writes nothing."""

import hashlib
from pathlib import Path
from typing import Any

import fake_run
import pytest
import tiny
import torch
import yaml
from test_lora import IDS, adapter

from continual import cli, lora, merging, statistics
from continual.errors import ContinualError
from continual.merge import merge


@pytest.fixture
def three(tmp_path: Path) -> list[str]:
    """Three adapters on a base model that is a folder."""
    base = tiny.saved(tmp_path / "base")
    for i in range(3):
        adapter(tmp_path / f"a{i}", r=2 + i, seed=i)
        lora.save(lora.load(tmp_path / f"a{i}"), tmp_path / f"a{i}", str(base))
    return [str(tmp_path / f"a{i}") for i in range(3)]


def run(*words: str) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["merge", *words])
    assert not end.value.code


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as end:
        cli.main(["merge", *words])
    assert end.value.code == 2
    return capsys.readouterr().err


def test_adapters_become_one_with_a_card(three: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    run(*three, "--method", "ties", "--density", "0.3", "--weights", "1,2,1", "--rank", "3", "--out", str(out))
    expected = merge([lora.load(Path(one)) for one in three], "ties", [1, 2, 1], rank=3, density=0.3)
    found = lora.load(out)
    for name, (a, b) in expected.lora.factors.items():
        torch.testing.assert_close(found.factors[name].b @ found.factors[name].a, b @ a)
    assert found.rank == 3
    card = yaml.safe_load((out / merging.CARD).read_text())
    assert (card["method"], card["arguments"], card["rank"]) == ("ties", {"density": 0.3}, 3)
    assert [one["weight"] for one in card["adapters"]] == [1.0, 2.0, 1.0]
    weights = (Path(three[1]) / lora.WEIGHTS).read_bytes()
    assert card["adapters"][1]["sha256"] == hashlib.sha256(weights).hexdigest()
    assert card["kept"] == pytest.approx(expected.kept, abs=1e-5)
    assert f"keeps {expected.kept:.1%}" in capsys.readouterr().out


def test_a_tokenizer_that_all_adapters_have_goes_along(three: list[str], tmp_path: Path):
    for i, one in enumerate(three):
        (Path(one) / "tokenizer.json").write_text("the same")
        (Path(one) / "chat_template.jinja").write_text(f"of its own: {i}")
    run(*three, "--method", "linear", "--out", str(tmp_path / "out"))
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "the same"
    assert not (tmp_path / "out" / "chat_template.jinja").exists()


def test_a_folder_of_adapters_is_all_of_them(three: list[str], tmp_path: Path):
    assert [str(folder) for folder in merging.adapters(str(tmp_path))] == three


def test_a_run_is_its_specialists_in_the_order_of_its_tasks(tmp_path: Path):
    folder = fake_run.write_run(tmp_path / "run", {"apart": "specialists"}, ("translate", "edit"))
    home = fake_run.write_arm(folder, "apart", [[0, 0], [1, 1]], teach="specialists", tasks=("translate", "edit"))
    for task in ("translate", "edit"):
        adapter(home / "specialists" / task)
    assert [one.name for one in merging.adapters(str(folder))] == ["translate", "edit"]


def test_specialists_that_share_a_start_are_refused(tmp_path: Path):
    folder = fake_run.write_run(tmp_path / "run", {"apart": "specialists"}, ("translate", "edit"))
    home = fake_run.write_arm(folder, "apart", [[0, 0], [1, 1]], teach="specialists", tasks=("translate", "edit"))
    for task in ("translate", "edit"):
        adapter(home / "specialists" / task)
    told = yaml.safe_load((folder / "recipe.yaml").read_text())
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**told, "start": "elsewhere"}))
    for source in (folder, home / "specialists"):
        with pytest.raises(ContinualError, match="count several times"):
            merging.adapters(str(source))
    assert merging.adapters(str(home / "specialists/edit")) == [home / "specialists/edit"]


def test_a_run_without_specialists_is_refused(tmp_path: Path):
    folder = fake_run.write_run(tmp_path / "run", {"plain": "sequential"})
    with pytest.raises(ContinualError, match="no arm has specialists"):
        merging.adapters(str(folder))


def test_a_whole_model_is_the_base_with_the_change(three: list[str], tmp_path: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "out"
    run(*three, "--method", "task_arithmetic", "--full", "--out", str(out))
    expected = tiny.model()
    for one in three:
        for name, (a, b) in lora.load(Path(one)).factors.items():
            expected.get_submodule(name).weight.data += b @ a
    found = AutoModelForCausalLM.from_pretrained(out)
    torch.testing.assert_close(found(IDS).logits, expected(IDS).logits, rtol=1e-4, atol=1e-4)
    assert AutoTokenizer.from_pretrained(out).eos_token == "<|end|>"
    assert yaml.safe_load((out / merging.CARD).read_text())["rank"] is None


def test_a_whole_model_of_a_rank_is_what_the_adapter_is(three: list[str], tmp_path: Path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    words = (*three, "--method", "linear", "--rank", "2")
    run(*words, "--out", str(tmp_path / "adapter"))
    run(*words, "--full", "--out", str(tmp_path / "model"))
    expected = PeftModel.from_pretrained(tiny.model(), str(tmp_path / "adapter"))(IDS).logits
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "model")(IDS).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_statistics_are_read_beside_the_adapters(three: list[str], tmp_path: Path):
    for one in three:
        read = lora.load(Path(one))
        statistics.save({n: torch.eye(a.shape[1]) for n, (a, _) in read.factors.items()}, "gram", Path(one))
    run(*three, "--method", "regmean", "--rank", "9", "--out", str(tmp_path / "out"))
    name = "model.layers.0.self_attn.q_proj"
    changes = [lora.load(Path(one)).factors[name] for one in three]
    a, b = lora.load(tmp_path / "out").factors[name]
    torch.testing.assert_close(b @ a, sum(f.b @ f.a for f in changes) / 3, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--method", "tis"), "did you mean 'ties'"),
        (("--method", "ties", "--density", "2"), "density"),
        (("--method", "ties", "--set", "gama=2"), "gama: unknown key"),
        (("--method", "ties", "--set", "gamma"), "KEY=VALUE"),
        (("--method", "linear", "--weights", "0.5,0.5"), "2 for 3 adapters"),
        (("--method", "linear", "--weights", "0.5,half"), "no list of numbers"),
        (("--method", "linear", "--space", "ful"), "neither core nor full"),
        (("--method", "slerp"), "merges 2 adapters"),
        (("--method", "fisher"), r"no fisher.safetensors"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_writes_nothing(
    three: list[str], tmp_path: Path, words: tuple[str, ...], named: str, capsys: pytest.CaptureFixture[str]
):
    assert named in refused(capsys, *three, *words, "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "settings", [{"use_dora": True}, {"init_lora_weights": "pissa"}, {"modules_to_save": ["lm_head"]}], ids=str
)
def test_a_variant_that_peft_would_merge_wrongly_is_refused_by_name(
    tmp_path: Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
):
    adapter(tmp_path / "a")
    adapter(tmp_path / "b", **settings)
    out = tmp_path / "out"
    message = refused(capsys, str(tmp_path / "a"), str(tmp_path / "b"), "--method", "linear", "--out", str(out))
    assert next(iter(settings)) in message
    assert not out.exists()


def test_what_is_there_already_is_never_taken_for_the_result(
    three: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "out").mkdir()
    assert "there already" in refused(capsys, *three, "--method", "linear", "--out", str(tmp_path / "out"))


def test_a_head_that_is_the_embedding_too_is_not_changed(tmp_path: Path):
    from continual import weights

    model = tiny.model("gpt2")
    with pytest.raises(ContinualError, match="shares its weight with the embedding"):
        weights.add(model, [("lm_head", torch.zeros(300, 16))])


def test_an_adapter_of_another_model_is_not_added():
    from continual import weights

    with pytest.raises(ContinualError, match="belongs to another"):
        weights.add(tiny.model(), [("model.layers.7.mlp.up_proj", torch.zeros(32, 16))])
    with pytest.raises(ContinualError, match="in the base model"):
        weights.add(tiny.model(), [("model.layers.0.mlp.up_proj", torch.zeros(2, 2))])
