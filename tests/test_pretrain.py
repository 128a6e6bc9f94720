"""Making a base model from raw text: packing, vocabulary, recipe, and the folder that comes out."""

import io
import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
from rich.console import Console

from continual import corpus, vocabulary
from continual.errors import ContinualError
from continual.guard import guard
from continual.pretrain import load_pretrain_recipe, pretrain, spread_unseen

NOUNS = ("cat", "dog", "cow", "sun")
TEXT = "\n\n".join(f"the {noun} sees the {other} 看见" for noun in NOUNS for other in NOUNS)

RECIPE = """
pretrain:
  corpus: {files: [text.txt]}
  tokenizer: {vocab_size: 400, words: [Translate], counted_documents: 100}
  model:
    hidden_size: 16
    intermediate_size: 32
    num_hidden_layers: 1
    num_attention_heads: 2
    max_position_embeddings: 64
  tokens: 2000
  block_length: 32
  tokens_per_batch: 128
  learning_rate: 1e-2
  output_dir: made
"""

IDS = ("vocab_size", "eos_token_id", "pad_token_id")


def quiet() -> Console:
    return Console(file=io.StringIO())


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    path = tmp_path / "base.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def test_the_folder_is_a_transformers_model_with_a_chat_template(recipe: Path, tmp_path: Path) -> None:
    guard()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = pretrain(load_pretrain_recipe(recipe), tmp_path / "out", quiet())
    tokenizer, model = AutoTokenizer.from_pretrained(out), AutoModelForCausalLM.from_pretrained(out)
    asked = [{"role": "user", "content": "hi"}]
    said = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert said == "<|user|>hi<|end|><|assistant|>"
    assert tokenizer.eos_token == "<|end|>" and tokenizer.pad_token_id != tokenizer.eos_token_id
    assert model.config.vocab_size == len(tokenizer)
    assert [file.name for file in tmp_path.iterdir() if file.is_dir()] == ["out"]


def test_the_same_recipe_makes_the_same_model_and_learns(recipe: Path, tmp_path: Path) -> None:
    console = quiet()
    one = pretrain(load_pretrain_recipe(recipe), tmp_path / "one", console)
    two = pretrain(load_pretrain_recipe(recipe), tmp_path / "two", quiet())
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
    assert (one / "tokenizer.json").read_bytes() == (two / "tokenizer.json").read_bytes()
    # An untaught model stands at the log of the size of its vocabulary, above 5.5.
    last = console.file.getvalue().split("loss ")[-1].split()[0]  # type: ignore[attr-defined]
    assert float(last) < 4.5


def test_the_tokenizer_of_another_model_is_taken_as_it_is(recipe: Path, tmp_path: Path) -> None:
    first = pretrain(load_pretrain_recipe(recipe), tmp_path / "first", quiet())
    taken = f"{{name_or_path: {first}}}"
    other = load_pretrain_recipe(recipe, [f"pretrain.tokenizer={taken}", "pretrain.model.num_hidden_layers=2"])
    second = pretrain(other, tmp_path / "second", quiet())
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    sizes, ids = json.loads((second / "config.json").read_text()), json.loads((first / "config.json").read_text())
    assert sizes["num_hidden_layers"] == 2
    assert [sizes[key] for key in IDS] == [ids[key] for key in IDS]


def test_what_a_taken_tokenizer_would_not_read_is_refused(recipe: Path) -> None:
    with pytest.raises(ContinualError, match="counted_documents, words: a tokenizer that is taken is not made"):
        load_pretrain_recipe(recipe, ["pretrain.tokenizer={name_or_path: x, words: [a], counted_documents: 9}"])


def test_a_taken_tokenizer_must_know_an_end(recipe: Path, tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    endless = PreTrainedTokenizerFast(tokenizer_object=vocabulary.train_vocabulary([TEXT] * 30, 400))
    endless.save_pretrained(tmp_path / "endless")
    taken = f"pretrain.tokenizer={{name_or_path: {tmp_path / 'endless'}}}"
    with pytest.raises(ContinualError, match="has no end token"):
        pretrain(load_pretrain_recipe(recipe, [taken]), tmp_path / "out", quiet())
    assert not (tmp_path / "out").exists()


def test_overrides_of_what_is_no_recipe_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- pretrain\n", encoding="utf-8")
    with pytest.raises(ContinualError, match="list.yaml"):
        load_pretrain_recipe(tmp_path / "list.yaml", ["pretrain.tokens=1"])


@pytest.mark.parametrize("tokenizer", ["{}", "{vocab_size: 400, name_or_path: x}"])
def test_a_tokenizer_is_made_or_taken(recipe: Path, tokenizer: str) -> None:
    with pytest.raises(ContinualError, match="override: pretrain.tokenizer: give either 'vocab_size', or 'name_or_p"):
        load_pretrain_recipe(recipe, [f"pretrain.tokenizer={tokenizer}"])


def test_a_model_that_is_there_is_not_overwritten(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ContinualError, match="exists already"):
        pretrain(load_pretrain_recipe(recipe), tmp_path / "out", quiet())


def test_all_mistakes_of_a_recipe_are_told_at_once(recipe: Path) -> None:
    wrong = RECIPE.replace("tokens: 2000", "tokens: no").replace("block_length", "blok_length")
    recipe.write_text(wrong.replace("{files: [text.txt]}", "{files: [text.txt], file: a.py}"), encoding="utf-8")
    with pytest.raises(ContinualError) as error:
        load_pretrain_recipe(recipe)
    assert len(error.value.lines) == 3
    assert "base.yaml:3: pretrain.corpus" in error.value.lines[0]
    assert "did you mean 'block_length'" in error.value.lines[2]


def test_a_missing_file_of_the_corpus_is_told_with_its_place(recipe: Path) -> None:
    (recipe.parent / "text.txt").unlink()
    with pytest.raises(ContinualError, match=r"base.yaml:3: pretrain.corpus: no such file: .*text.txt"):
        load_pretrain_recipe(recipe)


def test_a_tokenizer_that_marks_beginnings_marks_none_inside_a_block() -> None:
    """Blocks part documents by the end token alone, whatever a tokenizer puts around a single text."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = vocabulary.train_vocabulary([TEXT] * 30, 400)
    tokenizer.post_processor = TemplateProcessing(single="<|user|> $A", special_tokens=[("<|user|>", 2)])
    ids = [i for block in corpus.blocks(iter(["the cat", "the dog"] * 5), tokenizer, 1, 4) for i in block]
    assert 1 in ids and 2 not in ids


def test_the_recipe_is_read_without_torch() -> None:
    code = "import sys, continual.pretrain; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("text", ["the cat", " 看见 ☃\t\n\n", "naïve  “quotes” <|x|>", "", "Tränslate the the"])
def test_any_text_comes_back_as_it_was(text: str) -> None:
    tokenizer = vocabulary.train_vocabulary([TEXT] * 30, 400, ["Translate"])
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_frequent_and_named_words_are_one_token_and_rare_ones_are_spelt() -> None:
    tokenizer = vocabulary.train_vocabulary([TEXT] * 30 + ["once"], 400, ["Translate"])
    assert len(tokenizer.encode("Translate the cat").ids) == 3
    assert len(tokenizer.encode("看见").ids) == 2
    assert len(tokenizer.encode("once").ids) == 4
    assert len(tokenizer.encode("<|user|>the<|end|>").ids) == 3


def test_blocks_hold_every_token_once_with_an_end_after_each_document() -> None:
    tokenizer = vocabulary.train_vocabulary([TEXT] * 30, 400)
    packed = list(corpus.blocks(iter(["the cat", "the dog sees", "the cow"] * 5), tokenizer, 1, 4))
    ids = [i for block in packed for i in block]
    assert all(len(block) == 4 for block in packed)
    expected = [i for text in ["the cat", "the dog sees", "the cow"] * 5 for i in [*tokenizer.encode(text).ids, 1]]
    assert ids == expected[: len(ids)] and len(expected) - len(ids) < 4


def test_files_are_read_again_in_a_new_order(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join("abcdefgh"), encoding="utf-8")
    stream = list(islice(corpus.from_files([tmp_path / "a.txt"], 0), 16))
    assert sorted(stream[:8]) == sorted(stream[8:]) == list("abcdefgh")
    assert stream[:8] != stream[8:]


def test_an_empty_corpus_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n \n", encoding="utf-8")
    with pytest.raises(ContinualError, match="no text"):
        next(corpus.from_files([tmp_path / "a.txt"], 0))


def test_a_missing_function_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n", encoding="utf-8")
    with pytest.raises(ContinualError, match="no function 'documents'"):
        corpus.from_function(tmp_path / "a.py", "documents", 0)


def test_tokens_that_never_occurred_get_vectors_of_their_own() -> None:
    import torch

    embedding = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    embedding[10:] = 0.5
    seen = torch.arange(20) < 10
    before = embedding.clone()
    spread_unseen(embedding, seen)
    assert torch.equal(embedding[:10], before[:10])
    assert torch.cdist(embedding[10:], embedding[10:]).add(torch.eye(10) * 9).min() > 1
