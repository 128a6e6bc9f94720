"""An adapter in other forms: each says the same as the adapter it was made from, or is refused with the reason."""

import hashlib
import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from conftest import make_world, teach
from test_lineage import ARMS, CHEAP

from continual import export, lineage, lora
from continual.cli import main
from continual.errors import ContinualError
from continual.portable import Form, Reader, check, notices
from continual.runs import read_json
from continual.settings import Adapter

IDS = torch.arange(20)[None]


def adapter(folder: Path, tied: bool = False, dtype: torch.dtype = torch.float32, **settings: Any) -> torch.Tensor:
    """Save a tiny base and a random adapter for it, in `folder`/base and /adapter; gives the adapter's logits."""
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    base = tiny.model()
    base.config.tie_word_embeddings = tied
    if tied:
        base.tie_weights()
    base.to(dtype).save_pretrained(folder / "base")
    tiny.tokenizer(True).save_pretrained(folder / "base")
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    torch.manual_seed(1)
    made = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **{"target_modules": "all-linear", **settings}))
    for parameter in made.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    made.save_pretrained(folder / "adapter")
    fresh = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    return PeftModel.from_pretrained(fresh, folder / "adapter").eval()(IDS).logits


def loaded(folder: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(IDS).logits


VARIANTS = [{}, {"use_rslora": True}, {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}}]


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_a_plain_folder_says_the_same_with_its_scale_folded_in(tmp_path: Path, settings: dict[str, Any]):
    expected = adapter(tmp_path, **settings)
    export.export(tmp_path / "adapter", Form.peft, tmp_path / "out")
    torch.testing.assert_close(loaded(tmp_path / "out"), expected, rtol=1e-5, atol=1e-5)
    told = read_json(tmp_path / "out" / lora.CONFIG)
    assert told["r"] == told["lora_alpha"] and not told["use_rslora"] and not told["alpha_pattern"]
    for reader in Reader:
        assert check(tmp_path / "out", reader) == []


@pytest.mark.parametrize("settings", [*VARIANTS, {"use_dora": True}, {"modules_to_save": ["lm_head"]}], ids=str)
def test_a_whole_model_says_the_same(tmp_path: Path, settings: dict[str, Any]):
    from transformers import AutoTokenizer

    expected = adapter(tmp_path, **settings)
    export.export(tmp_path / "adapter", Form.merged, tmp_path / "out")
    assert (loaded(tmp_path / "out") - expected).abs().max() < 1e-5
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "README.md", "manifest.json"} <= names


def test_a_whole_model_has_the_type_of_its_base(tmp_path: Path):
    expected = adapter(tmp_path, dtype=torch.bfloat16)
    lines = export.export(tmp_path / "adapter", Form.merged, tmp_path / "out")
    assert read_json(tmp_path / "out/config.json")["dtype"] == "bfloat16" and "bfloat16" in lines[0]
    torch.testing.assert_close(loaded(tmp_path / "out"), expected, rtol=0.05, atol=0.05)


def test_a_head_that_is_also_the_embedding_is_no_whole_model(tmp_path: Path):
    adapter(tmp_path, tied=True, target_modules=["q_proj", "lm_head"])
    with pytest.raises(ContinualError, match="one weight for embedding and head"):
        export.export(tmp_path / "adapter", Form.merged, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]


def test_what_is_no_plain_product_is_refused_as_a_plain_folder(tmp_path: Path):
    adapter(tmp_path, use_dora=True)
    with pytest.raises(ContinualError, match="use_dora"):
        export.export(tmp_path / "adapter", Form.peft, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_over(tmp_path: Path):
    adapter(tmp_path)
    with pytest.raises(ContinualError, match="--out: .* exists already"):
        export.export(tmp_path / "adapter", Form.peft, tmp_path / "base")


CONVERTER = """#!{python}
import json, sys
args = sys.argv[1:]
folder, out = args[-1], args[args.index("--outfile") + 1]
told = json.load(open(folder + "/adapter_config.json"))
assert told["lora_alpha"] == told["r"] and not told["use_rslora"]
if told["r"] == 3:
    sys.exit("Model Tiny is not supported")
open(out, "w").write(args[args.index("--base") + 1])
"""


def converter(folder: Path, name: str = "convert_lora_to_gguf.py") -> Path:
    script = folder / name
    folder.mkdir()
    script.write_text(CONVERTER.format(python=sys.executable))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return folder


@pytest.mark.parametrize("how", ["option", "variable", "PATH"])
def test_llama_cpp_s_converter_gets_the_plain_adapter_and_its_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
):
    adapter(tmp_path, use_rslora=True)
    given = converter(tmp_path / "llama")
    if how == "variable":
        monkeypatch.setenv(export.LLAMA_CPP, str(given))
    elif how == "PATH":
        monkeypatch.setenv("PATH", str(given))
    export.export(tmp_path / "adapter", Form.gguf, tmp_path / "out", given if how == "option" else None)
    assert (tmp_path / "out/adapter.gguf").read_text() == str(tmp_path / "base")


def test_without_the_converter_one_line_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    adapter(tmp_path)
    with pytest.raises(
        ContinualError, match=r"convert_lora_to_gguf.py, which is not on PATH.*--llama-cpp DIR"
    ) as told:
        export.export(tmp_path / "adapter", Form.gguf, tmp_path / "out.gguf")
    assert len(told.value.lines) == 1
    with pytest.raises(ContinualError, match=r"convert_hf_to_gguf.py, which is not in"):
        export.export(tmp_path / "base", Form.gguf, tmp_path / "out.gguf", tmp_path)


def test_what_the_converter_refuses_leaves_nothing(tmp_path: Path):
    adapter(tmp_path, r=3)
    with pytest.raises(ContinualError, match=r"convert_lora_to_gguf.py: Model Tiny is not supported"):
        export.export(tmp_path / "adapter", Form.gguf, tmp_path / "out/x.gguf", converter(tmp_path / "llama"))
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "vllm", "llama_cpp"),
    [
        ({}, None, None),
        ({"r": 16}, None, None),
        ({"r": 20}, "--max-lora-rank 32", None),
        ({"use_rslora": True}, None, "use_rslora"),
        ({"use_dora": True}, "use_dora", "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save", "modules_to_save"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern", None),
        ({"alpha_pattern": {"q_proj": 2}}, "alpha_pattern", "alpha_pattern"),
        ({"lora_bias": True}, "lora_B.bias", "lora_B.bias"),
        ({"init_lora_weights": "pissa"}, "pissa changes the base", "pissa changes the base"),
    ],
    ids=str,
)
def test_what_a_reader_would_not_load_is_one_line_with_its_name(
    tmp_path: Path, settings: dict[str, Any], vllm: str | None, llama_cpp: str | None
):
    adapter(tmp_path, **settings)
    for reader, named in ((Reader.vllm, vllm), (Reader.llama_cpp, llama_cpp)):
        faults = check(tmp_path / "adapter", reader)
        assert len(faults) == (named is not None)
        assert named is None or named in faults[0]


@pytest.mark.parametrize(
    ("saved", "of_base", "fault"),
    [
        ("taught", True, None),
        ("taught", False, "--chat-template"),
        ("other", True, "does not render"),
        (None, True, "missing"),
    ],
)
def test_a_folder_that_asks_in_another_form_than_was_taught_is_found(
    tmp_path: Path, saved: str | None, of_base: bool, fault: str | None
):
    adapter(tmp_path)
    folder = tmp_path / "adapter"
    digest = hashlib.sha256(b"taught").hexdigest()
    form = {"name": "template", "template_sha256": digest, "of_base": of_base}
    (folder / "manifest.json").write_text(json.dumps({"form": form}))
    if saved is not None:
        (folder / "chat_template.jinja").write_text(saved)
    for reader in Reader:
        faults = check(folder, reader)
        assert len(faults) == (fault is not None) and (fault is None or fault in faults[0])


def test_only_lora_is_looked_at_and_only_adapters(tmp_path: Path):
    adapter(tmp_path)
    config = tmp_path / "adapter" / lora.CONFIG
    config.write_text(json.dumps({**read_json(config), "peft_type": "VERA"}))
    for reader in Reader:
        assert check(tmp_path / "adapter", reader)[0].startswith("peft_type: VERA")
    with pytest.raises(ContinualError, match="no adapter that could be checked"):
        check(tmp_path / "base", Reader.vllm)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, []),
        ({"r": 64}, ["r"]),
        ({"use_dora": True, "use_rslora": True}, ["use_dora", "use_rslora"]),
        ({"modules_to_save": ("lm_head",), "rank_pattern": {"q": 1}}, ["modules_to_save", "rank_pattern"]),
        ({"alpha_pattern": {"q": 1.0}}, ["alpha_pattern"]),
    ],
    ids=str,
)
def test_a_recipe_that_leaves_the_profile_is_told(settings: dict[str, Any], named: list[str]):
    told = notices(Adapter(**settings).model_dump())
    assert [line.split(":")[0] for line in told] == [f"adapter.{name}" for name in named]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = make_world(tmp_path_factory.mktemp("export"))
    return teach(world, arms=ARMS, adapter={"r": 4, "use_rslora": True}, **CHEAP)


def test_the_command_exports_an_adapter_of_a_run_with_its_origin(run: Path, tmp_path: Path, capsys: Any):
    main_ = ["export", str(run), "--adapter", "legs", "--out", str(tmp_path / "out"), "--check", "llama.cpp"]
    with pytest.raises(SystemExit) as end:
        main(main_)
    assert end.value.code == 0
    assert "nothing stands in the way of llama.cpp" in capsys.readouterr().out
    told, source = read_json(tmp_path / "out/manifest.json"), run / "arms/apart/seed0/specialists/legs"
    assert told["exported_from"] == {"name": "legs", "sha256": lineage.identity(source)}
    assert told["files"] == lineage.hashes(tmp_path / "out") and told["tasks"] == ["legs"]
    torch.testing.assert_close(loaded(tmp_path / "out"), loaded(source), rtol=1e-5, atol=1e-5)


def test_a_check_that_fails_ends_with_one(run: Path, capsys: Any):
    with pytest.raises(SystemExit) as end:
        main(["export", str(run), "--check", "llama.cpp"])
    assert end.value.code == 1
    assert capsys.readouterr().out.startswith("use_rslora: ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{run}"], "--out: say where"),
        (["{run}", "--adapter", "leg", "--out", "x"], "has no 'leg'; did you mean 'legs'"),
        (["{run}", "--adapter", "base", "--out", "x"], "has no 'base'"),
        (
            ["{run}/arms/apart/seed0/specialists/legs", "--adapter", "legs", "--out", "x"],
            "is a model's folder and no run",
        ),
        (["{world}/model", "--out", "x"], "is a whole model already"),
        (["nowhere", "--out", "x"], "no run in nowhere"),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_line(run: Path, words: list[str], said: str, capsys: Any):
    with pytest.raises(SystemExit) as end:
        main(["export", *(word.format(run=run, world=run.parent) for word in words)])
    err = capsys.readouterr().err
    assert end.value.code == 2 and said in err and len(err.splitlines()) == 1
