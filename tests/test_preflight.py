"""What cannot be used is refused by name before anything is written, and the plan refuses it too."""

import io
import json
import struct
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from conftest import make_world, recipe, teach
from rich.console import Console
from safetensors.torch import load_file, save_file
from test_talk import greedy
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from continual import inference, lineage, lora, plan, preflight
from continual.cli import main
from continual.errors import ContinualError
from continual.model import load_model, load_tokenizer
from continual.origin import Origin
from continual.recipe import Recipe
from continual.runs import read_json

QUICK: dict[str, Any] = {
    "training": {"learning_rate": 1e-2, "num_train_epochs": 1, "max_length": 48},
    "arms": {"x": {}},
}


def dry_run(asked: Recipe, world: Path) -> str:
    said = io.StringIO()
    plan.describe(asked, None, [world / "tasks"], Console(file=said, width=500))
    return said.getvalue()


def refused(world: Path, said: str, **changes: Any) -> None:
    """A recipe that neither the plan nor the run takes, and of which nothing is left."""
    asked = {**QUICK, **changes}
    with pytest.raises(ContinualError, match=said):
        dry_run(recipe(world, **asked), world)
    with pytest.raises(ContinualError, match=said):
        teach(world, **asked)
    assert not (world / "run").exists()


def put(world: Path, model: Any) -> None:
    """Make a model that of the world."""
    for file in (world / "model").glob("*.safetensors"):
        file.unlink()
    model.save_pretrained(world / "model")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world whose model is changed by nobody."""
    return make_world(tmp_path_factory.mktemp("preflight"))


# Models that cannot write


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra"])
def test_a_model_that_fills_gaps_is_no_base(world: Path, kind: str) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model(kind, vocab_size=300, max_position_embeddings=64, pad_token_id=0, **sizes)
    put(world, AutoModelForMaskedLM.from_config(config))
    refused(world, f"is a {type(AutoModelForMaskedLM.from_config(config)).__name__}: its attention looks both ways")


def test_an_encoder_that_was_made_a_decoder_is_one(world: Path) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model("bert", vocab_size=300, max_position_embeddings=64, is_decoder=True, **sizes)
    put(world, AutoModelForCausalLM.from_config(config))
    assert preflight.look(recipe(world)).parameters > 0
    assert preflight.check([recipe(world)]) == []


def test_a_model_that_looks_ahead_is_noticed_whatever_its_configuration_says(world: Path) -> None:
    config = AutoConfig.for_model("xlnet", vocab_size=300, d_model=16, n_layer=1, n_head=2, d_inner=32)
    put(world, AutoModelForCausalLM.from_config(config))
    with pytest.raises(ContinualError, match="XLNetLMHeadModel"):
        preflight.check([recipe(world)])


@pytest.mark.parametrize("kind", ["mamba2", "mamba"])
def test_the_plan_refuses_what_the_run_would_refuse(world: Path, kind: str) -> None:
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 8, "vocab_size": 300}
    sizes |= {"num_heads": 2, "head_dim": 16, "n_groups": 1} if kind == "mamba2" else {}
    put(world, AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes)))
    refused(world, "key-value cache|keys and values")


# Weights


def change(world: Path, how: Any) -> None:
    path = world / "model" / "model.safetensors"
    tensors = load_file(path)
    how(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_weights_that_are_no_numbers_are_named(world: Path) -> None:
    change(world, lambda tensors: tensors["model.layers.1.mlp.up_proj.weight"].fill_(float("nan")))
    with pytest.raises(ContinualError, match=r"no finite numbers: model.layers.1.mlp.up_proj.weight"):
        teach(world, **QUICK)
    assert not (world / "run").exists()


@pytest.mark.parametrize("missing", ["model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"])
def test_weights_that_are_not_there_are_not_drawn_at_random(world: Path, missing: str) -> None:
    change(world, lambda tensors: tensors.pop(missing))
    with pytest.raises(ContinualError, match=f"lacks weights of LlamaForCausalLM, which would be random: {missing}"):
        teach(world, **QUICK)
    assert not (world / "run").exists()


def test_a_head_that_is_the_embedding_is_not_missing(tmp_path: Path) -> None:
    tiny.saved(tmp_path, "gpt2")
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    model = load_model(str(tmp_path))
    assert model.lm_head.weight is model.transformer.wte.weight


@pytest.mark.parametrize(
    ("training", "said"),
    [
        (
            {"learning_rate": 1e30, "max_grad_norm": 1e9},
            r"sound: training: the (loss|gradient) is no finite number",
        ),
        (
            {"learning_rate": 1e38, "max_grad_norm": 1e9, "tokens_per_batch": 100000},
            "without finite numbers|no finite",
        ),
    ],
)
@pytest.mark.parametrize("adapter", [None, {"r": 2}])
def test_training_stops_at_the_first_number_that_is_none(
    world: Path, adapter: Any, training: dict[str, Any], said: str
) -> None:
    with pytest.raises(ContinualError, match=said):
        teach(world, arms={"x": {}}, adapter=adapter, training={"max_length": 48, "num_train_epochs": 2, **training})
    assert not list((world / "run").glob("arms/*/*/after/*"))


# Adapters


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        ({"target_modules": ["nope"]}, "adapter.target_modules: 'nope' is no module of LlamaForCausalLM"),
        ({"modules_to_save": ["nope"]}, "adapter.modules_to_save: 'nope' is no module"),
        ({"target_parameters": ["experts.nope"]}, "adapter.target_parameters: 'experts.nope' is no parameter"),
    ],
)
def test_nothing_is_written_until_the_adapter_fits(world: Path, adapter: dict[str, Any], said: str) -> None:
    refused(world, said, adapter=adapter)


def test_a_corrected_recipe_is_no_other_recipes(world: Path) -> None:
    with pytest.raises(ContinualError, match="nope"):
        teach(world, **QUICK, adapter={"target_modules": ["nope"]}, curriculum=["sound"])
    teach(world, **QUICK, adapter={"r": 2}, curriculum=["sound"])
    assert read_json(world / "run" / "manifest.json")["state"] == "finished"


def test_a_sweeps_every_adapter_is_looked_at(shared: Path) -> None:
    swept = {"adapter.target_modules": [["q_proj"], ["nope"]]}
    with pytest.raises(ContinualError, match="'nope' is no module"):
        teach(shared, **QUICK, adapter={"r": 2}, sweep=swept)


def test_the_plan_says_what_all_linear_leaves_alone(world: Path) -> None:
    put(world, tiny.model("mixtral"))
    said = dry_run(recipe(world, **QUICK, adapter={"r": 2}), world)
    assert "all-linear adapts k_proj, o_proj, q_proj, v_proj; the experts of MixtralForCausalLM" in said


# Where a base comes from


def test_a_revision_is_of_the_hub(shared: Path) -> None:
    with pytest.raises(ContinualError, match="revision: is of a name on the Hub, and .* is a folder"):
        preflight.look(recipe(shared, revision="v1"))


@pytest.fixture
def hub(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model in the Hub's cache: main is another one than its branch v1."""
    home = tmp_path / "hub" / "models--some--body"
    for commit, branch, seed in (("a" * 40, "main", 1), ("b" * 40, "v1", 0)):
        folder = home / "snapshots" / commit
        folder.mkdir(parents=True)
        tiny.model("llama", seed).save_pretrained(folder)
        tiny.tokenizer(True).save_pretrained(folder)
        (home / "refs").mkdir(exist_ok=True)
        (home / "refs" / branch).write_text(commit)
    for module in ("huggingface_hub.constants", "huggingface_hub.file_download", "transformers.utils.hub"):
        for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
            if name in vars(sys.modules[module]):
                monkeypatch.setattr(f"{module}.{name}", str(tmp_path / "hub"))
    return "some/body"


def test_the_revision_is_kept_wherever_the_base_is_used_again(world: Path, hub: str) -> None:
    one, two = (load_model(Origin(hub, revision)).model.norm.weight for revision in (None, "v1"))
    assert one.shape == two.shape
    run = teach(world, **QUICK, adapter={"r": 2}, model_name_or_path=hub, revision="v1", curriculum=["sound"])
    after = run / "arms" / "x" / "seed0" / "after" / "1"
    assert read_json(run / "manifest.json")["base"] == {"name": hub, "revision": "v1"}
    assert read_json(after / lora.CONFIG)["revision"] == "v1"
    assert lineage.manifest_of(after)["revision"] == "v1"
    assert lora.load(after).revision == "v1"
    base = inference.Taught(run).bank.model
    same = load_model(str(world / "model"))  # seed 0, as the branch
    torch.testing.assert_close(base.lm_head.weight, same.lm_head.weight, rtol=0, atol=0)
    whole = ["export", str(after), "--to", "merged", "--out", str(world / "whole")]
    full = ["merge", str(after), "--method", "linear", "--full", "--out", str(world / "full")]
    for words in (whole, full):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert not ended.value.code
    for name in ("whole", "full"):
        saved = load_file(world / name / "model.safetensors")
        torch.testing.assert_close(saved["lm_head.weight"], same.lm_head.weight, rtol=0, atol=1e-6)


def test_the_computation_of_attention_can_be_chosen(shared: Path) -> None:
    origin = recipe(shared, attn_implementation="eager").origin
    assert load_model(origin).config._attn_implementation == "eager"
    with pytest.raises(ContinualError, match="cannot load the model"):
        load_model(Origin(str(shared / "model"), attn_implementation="nope"))


GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.layers": "blk",
}


def gguf_value(value: Any, typed: bool = True) -> bytes:
    """A value of GGUF's metadata: uint32, float32, text, or a list of one of them."""
    if isinstance(value, list):
        kind = {int: 4, str: 8}[type(value[0])]
        told = struct.pack("<IQ", kind, len(value)) + b"".join(gguf_value(one, False) for one in value)
        return struct.pack("<I", 9) + told
    if isinstance(value, str):
        told = struct.pack("<Q", len(value.encode())) + value.encode()
        return struct.pack("<I", 8) + told if typed else told
    kind, code = (6, "f") if isinstance(value, float) else (4, "I")
    return (struct.pack("<I", kind) if typed else b"") + struct.pack(f"<{code}", value)


def write_gguf(path: Path) -> None:
    """The tiny Qwen2, with its tokenizer, as llama.cpp's converter writes it."""
    model, tokenizer = tiny.model("qwen2"), tiny.tokenizer(True)
    config, words = model.config, tokenizer.convert_ids_to_tokens(range(300))
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    metadata = {
        "general.architecture": "qwen2",
        "qwen2.context_length": config.max_position_embeddings,
        "qwen2.embedding_length": config.hidden_size,
        "qwen2.block_count": config.num_hidden_layers,
        "qwen2.feed_forward_length": config.intermediate_size,
        "qwen2.attention.head_count": config.num_attention_heads,
        "qwen2.attention.head_count_kv": config.num_key_value_heads,
        "qwen2.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "qwen2.rope.freq_base": 10000.0,
        "qwen2.vocab_size": config.vocab_size,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.token_type": [3 if word.startswith("<|") else 1 for word in words],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.chat_template": tokenizer.chat_template,
    }
    head, data = b"", b""
    tensors = model.state_dict()
    for name, tensor in tensors.items():
        for ours, theirs in GGUF_NAMES.items():
            name = name.replace(ours, theirs)
        shape = tuple(reversed(tensor.shape))
        head += gguf_value(name, False) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, len(data))
        data += tensor.numpy().tobytes()
        data += bytes(-len(data) % 32)
    told = b"".join(gguf_value(key, False) + gguf_value(value) for key, value in metadata.items())
    start = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)) + told + head
    path.write_bytes(start + bytes(-len(start) % 32) + data)


@pytest.mark.parametrize("name", ["model.gguf", "."])
def test_a_gguf_file_is_a_base(world: Path, tmp_path: Path, name: str) -> None:
    pytest.importorskip("gguf")
    folder = tmp_path / "gguf"
    folder.mkdir()
    write_gguf(folder / "model.gguf")
    where = str(folder / name)
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(load_model(where)(ids).logits, tiny.model("qwen2")(ids).logits)
    assert load_tokenizer(where).chat_template == tiny.ROLE_TEMPLATE
    assert "nothing" not in dry_run(recipe(world, **QUICK, adapter={"r": 2}, model_name_or_path=where), world)
    run = teach(world, **QUICK, adapter={"r": 4}, model_name_or_path=where, curriculum=["sound"])
    after = run / "arms" / "x" / "seed0" / "after" / "1"
    # An adapter names the file, or the folder that holds no other, and is used on it again.
    again = load_model(read_json(after / lora.CONFIG)["base_model_name_or_path"])
    torch.testing.assert_close(again(ids).logits, tiny.model("qwen2")(ids).logits)
    assert inference.Taught(run).generate(["sad dog"])


@pytest.mark.skipif(find_spec("gguf") is not None, reason="gguf is installed")
def test_without_gguf_the_plan_refuses_it(world: Path, tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf")
    refused(
        world,
        "cannot load the tokenizer of .*model.gguf.*install.*gguf",
        model_name_or_path=str(tmp_path / "model.gguf"),
    )


def test_a_file_that_is_no_model_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(ContinualError, match=r"is a file; name a folder, or a file that ends in .gguf"):
        load_tokenizer(str(tmp_path / "model.bin"))
    (tmp_path / "a.gguf").write_bytes(b"x")
    (tmp_path / "b.gguf").write_bytes(b"x")
    with pytest.raises(ContinualError, match="holds several GGUF files; name one: a.gguf, b.gguf"):
        load_tokenizer(str(tmp_path))
    with pytest.raises(ContinualError, match="model_name_or_path: cannot load the tokenizer"):
        load_tokenizer(str(tmp_path / "a.gguf"))


# Quantised bases

FOUR_BITS = {"load_in_4bit": True}


def test_only_an_adapter_learns_on_a_quantised_base(shared: Path) -> None:
    with pytest.raises(ValueError, match="is needed with `quantization`"):
        recipe(shared, quantization=FOUR_BITS)
    with pytest.raises(ValueError, match="set one of load_in_4bit and load_in_8bit"):
        recipe(shared, quantization={}, adapter={})


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_without_bitsandbytes_it_is_refused_in_one_line(world: Path) -> None:
    refused(world, "needs bitsandbytes: pip install", adapter={"r": 2}, quantization=FOUR_BITS)
    config = world / "model" / "config.json"
    stored = {"quant_method": "bitsandbytes", **FOUR_BITS}
    config.write_text(json.dumps({**json.loads(config.read_text()), "quantization_config": stored}))
    refused(world, "needs bitsandbytes: pip install", adapter={"r": 2})
    with pytest.raises(ContinualError, match="cannot load the model of .*bitsandbytes") as error:
        load_model(str(world / "model"))
    assert len(error.value.lines) == 1


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
def test_an_adapter_taught_on_a_quantised_base_answers_on_it_alike(world: Path) -> None:
    changes = {**QUICK, "adapter": {"r": 4}, "curriculum": ["sound"], "quantization": FOUR_BITS}
    run = teach(world, **changes, dtype="float32")
    after = run / "arms" / "x" / "seed0" / "after" / "1"
    assert read_json(run / "manifest.json")["base"]["quantization"]["load_in_4bit"] is True
    assert lineage.manifest_of(after)["quantization"]["load_in_4bit"] is True
    taught = inference.Taught(run)
    assert type(taught.bank.model.model.layers[0].mlp.up_proj).__name__ == "Linear4bit"
    from peft import PeftModel

    alone = PeftModel.from_pretrained(load_model(taught.recipe.origin, "float32"), after).eval()
    assert taught.generate(["sad dog"], "x", max_new_tokens=64) == [greedy(alone, "sad dog")]
    load_model(taught.recipe.origin, "float32").save_pretrained(world / "four")
    tiny.tokenizer(True).save_pretrained(world / "four")
    again = load_model(str(world / "four"), "float32")
    torch.testing.assert_close(again(torch.tensor([[5]])).logits, taught.bank.model(torch.tensor([[5]])).logits)
    with pytest.raises(ContinualError, match="quantised and cannot be trained"):
        preflight.look(recipe(world, model_name_or_path=str(world / "four")))


# Code of others

CODE = """
import os
open(os.environ["MARK"], "a").write("ran")
from transformers import LlamaConfig
class Mine(LlamaConfig):
    model_type = "mine"
"""


@pytest.mark.parametrize(
    "words",
    [
        ["ask", "RUN", "hi"],
        ["rehearse", "RUN", "--task", "sound"],
        ["export", "RUN", "--to", "merged", "--out", "OUT"],
        ["merge", "RUN/arms/x/seed0/after/1", "--method", "linear", "--full", "--out", "OUT"],
        ["serve", "RUN", "--port", "0"],
        ["route", "RUN"],
        ["merge-report", "RUN"],
        ["teach", "RUN", "first", "--arm", "x"],
    ],
    ids=lambda words: words[0],
)
def test_a_run_cannot_allow_its_own_code(
    armed: Path, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    monkeypatch.setenv("MARK", str(mark))
    monkeypatch.chdir(armed)
    filled = [word.replace("RUN", str(armed / "run")).replace("OUT", str(tmp_path / "out")) for word in words]
    filled += ["--tasks", str(armed / "tasks")] if words[0] in ("route", "merge-report", "teach") else []
    with pytest.raises(SystemExit) as ended:
        main(filled)
    assert ended.value.code == 2 and not mark.exists()
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.fixture(scope="module")
def armed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from somebody else: its base has code, and its recipe allows it."""
    world = make_world(tmp_path_factory.mktemp("armed"))
    arms = {"x": {"rehearsal": {"max_tries": 1}}, "apart": {"teach": "specialists", "rehearsal": {"max_tries": 1}}}
    run = teach(world, **{**QUICK, "arms": arms}, adapter={"r": 2}, evaluate={"limit": 2})
    (world / "model" / "mine.py").write_text(CODE)
    config = world / "model" / "config.json"
    told = {**json.loads(config.read_text()), "model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}
    config.write_text(json.dumps(told))
    written = run / "recipe.yaml"
    written.write_text(written.read_text().replace("trust_remote_code: false", "trust_remote_code: true"))
    assert "trust_remote_code: true" in written.read_text()
    return world


def test_whoever_asks_now_may_allow_it(armed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    monkeypatch.setenv("MARK", str(mark))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    with pytest.raises(ContinualError):
        inference.Taught(armed / "run")
    assert not mark.exists()
    recipe_now = inference.run_recipe(armed / "run", trust_remote_code=True)
    assert recipe_now.trust_remote_code and recipe_now.origin.trust_remote_code
