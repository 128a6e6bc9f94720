"""Stage one: a small base model and its tokenizer, made from raw text by a recipe of its own kind."""

import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from continual import corpus, vocabulary, yamlfile
from continual import overrides as overriding
from continual.errors import ContinualError
from continual.guard import guard
from continual.seeds import derive

if TYPE_CHECKING:
    import torch
    from rich.console import Console
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Corpus(_Settings):
    """Either `files`, or `file` and `function`; paths are relative to the recipe."""

    files: tuple[Path, ...] = ()
    """Text files; a blank line ends a document."""
    file: Path | None = None
    """A Python file."""
    function: str | None = None
    """A function of that file: takes a seed, gives documents (strings) without end."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.files) == bool(self.file) or bool(self.file) != bool(self.function):
            raise ValueError("give either 'files', or 'file' and 'function'")
        return self

    def beside(self, folder: Path) -> "Corpus":
        """The same with paths that start from a folder."""
        files = tuple(folder / file for file in self.files)
        return self.model_copy(update={"files": files, "file": self.file and folder / self.file})

    def paths(self) -> tuple[Path, ...]:
        """Every file it reads."""
        return self.files or tuple(file for file in (self.file,) if file)

    def documents(self, seed: int) -> Iterator[str]:
        """The documents, without end."""
        if self.file and self.function:
            return corpus.from_function(self.file, self.function, seed)
        return corpus.from_files(self.files, seed)


class Vocabulary(_Settings):
    """The tokenizer to be made, of `vocab_size` entries; or `name_or_path` alone."""

    name_or_path: str | None = None
    """A model whose tokenizer is taken as it is: a folder, or a name on the Hub."""
    vocab_size: int | None = Field(default=None, gt=300)
    """At most so many entries: 5 special tokens, 256 bytes, then whole words."""
    words: tuple[str, ...] = ()
    """Words that get an entry although the corpus may not have them, e.g. those of later instructions."""
    counted_documents: int = Field(default=20_000, gt=0)
    """So many documents are counted to find the frequent words."""

    @model_validator(mode="after")
    def _made_or_taken(self) -> Self:
        if bool(self.name_or_path) == bool(self.vocab_size):
            raise ValueError("give either 'vocab_size', or 'name_or_path'")
        if self.name_or_path and (unread := self.model_fields_set - {"name_or_path", "vocab_size"}):
            raise ValueError(f"{', '.join(sorted(unread))}: a tokenizer that is taken is not made; leave it out")
        return self


class Sizes(_Settings):
    """The Llama to be made; names as in its config."""

    hidden_size: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    num_hidden_layers: int = Field(gt=0)
    num_attention_heads: int = Field(gt=0)
    max_position_embeddings: int = Field(gt=0)


class PretrainSettings(_Settings):
    corpus: Corpus
    tokenizer: Vocabulary
    model: Sizes
    tokens: int = Field(gt=0)
    """Tokens read in all."""
    block_length: int = Field(default=256, gt=1)
    """Tokens per sequence; documents are packed into them one after another."""
    tokens_per_batch: int = Field(default=4096, gt=0)
    learning_rate: float = Field(gt=0)
    """The highest rate, reached after the warm-up; falls to zero along a cosine."""
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    weight_decay: float = Field(default=0.1, ge=0)
    bf16: bool = False
    """Matrix products in bfloat16; the weights stay float32."""
    compile: bool = False
    """Compile the model first: pays on long runs, needs a C++ compiler."""
    seed: int = 0
    output_dir: Path


class PretrainRecipe(_Settings):
    """A recipe file whose one top-level key is `pretrain`."""

    pretrain: PretrainSettings


def load_pretrain_recipe(path: Path, overrides: Sequence[str] = ()) -> PretrainRecipe:
    """Read and check a recipe file; the paths of its corpus are taken from where it lies.

    Args:
        path: A YAML file.
        overrides: Texts ``dotted.key=value``.

    Raises:
        ContinualError: one line for each mistake.
    """
    document = yamlfile.load(path)
    changes = overriding.parse(overrides)
    data = overriding.apply(document.data, changes) if isinstance(document.data, dict) else document.data
    recipe = yamlfile.validate(PretrainRecipe, document, data, overridden=list(changes))
    found = recipe.pretrain.corpus.beside(path.parent)
    place = f"{document.at('pretrain', 'corpus')}: pretrain.corpus"
    missing = [f"{place}: no such file: {file}" for file in found.paths() if not file.is_file()]
    if missing:
        raise ContinualError(*missing)
    return PretrainRecipe(pretrain=recipe.pretrain.model_copy(update={"corpus": found}))


def pretrain(recipe: PretrainRecipe, out: Path | None = None, console: "Console | None" = None) -> Path:
    """Make the model; gives its folder, which any program that knows transformers can load.

    Args:
        recipe: What to make, as `load_pretrain_recipe` gives it.
        out: The folder to be made, in place of the recipe's `output_dir`.
        console: Where progress is printed; the terminal where left out.

    Raises:
        ContinualError: the folder is there already, or the corpus has no text.
    """
    import torch
    from rich.console import Console

    settings = recipe.pretrain
    console = console or Console()
    out = out or settings.output_dir
    if out.exists() and any(out.iterdir()):
        raise ContinualError(f"{out}: exists already; remove it or choose another output_dir")
    tokenizer = new_tokenizer(settings)
    with torch.random.fork_rng():
        torch.manual_seed(derive(settings.seed, "weights"))
        model = new_model(settings, tokenizer)
        size = sum(parameter.numel() for parameter in model.parameters())
        console.print(f"{size:,} parameters, {len(tokenizer):,} tokens in the vocabulary")
        seen = train(model, tokenizer, settings, console)
        spread_unseen(model.get_input_embeddings().weight, seen)
    save(model, tokenizer, out)
    console.print(f"wrote {out}")
    return out


def new_tokenizer(settings: PretrainSettings) -> Any:
    """The tokenizer that the recipe names, or one made from its corpus.

    Raises:
        ContinualError: the one that is named cannot be loaded, or has no end token to part documents with.
    """
    wanted = settings.tokenizer
    if wanted.vocab_size is None:
        guard()
        from continual.model import load_tokenizer

        taken = load_tokenizer(str(wanted.name_or_path))
        if taken.eos_token_id is None:
            raise ContinualError(f"pretrain.tokenizer.name_or_path: {wanted.name_or_path}: has no end token")
        return taken
    counted = islice(settings.corpus.documents(settings.seed), wanted.counted_documents)
    made = vocabulary.train_vocabulary(counted, wanted.vocab_size, wanted.words)
    return vocabulary.with_chat(made, settings.model.max_position_embeddings)


def new_model(settings: PretrainSettings, tokenizer: "PreTrainedTokenizerFast") -> "LlamaForCausalLM":
    """An untaught Llama with tied embeddings, on the GPU if there is one."""
    guard()
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
        # The usual 0.02 suits wide models; in narrow ones attention then starts out flat and stays so for long.
        initializer_range=settings.model.hidden_size**-0.5,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **settings.model.model_dump(),
    )
    return LlamaForCausalLM(config).to("cuda" if torch.cuda.is_available() else "cpu")


def train(
    model: "LlamaForCausalLM", tokenizer: "PreTrainedTokenizerFast", settings: PretrainSettings, console: "Console"
) -> "torch.Tensor":
    """Learn next tokens, with warm-up and cosine; gives which ids occurred, shape (vocabulary,), bool."""
    import torch

    rows = max(1, settings.tokens_per_batch // settings.block_length)
    steps = max(1, settings.tokens // (rows * settings.block_length))
    optimizers = new_optimizers(model, settings)
    warmup = max(1, round(settings.warmup_ratio * steps))

    def loss_of(ids: torch.Tensor) -> torch.Tensor:
        hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
        logits = model.lm_head(hidden)
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())

    step_loss = torch.compile(loss_of) if settings.compile else loss_of
    documents = settings.corpus.documents(settings.seed)
    stream = corpus.blocks(documents, tokenizer.backend_tokenizer, tokenizer.eos_token_id, settings.block_length + 1)
    seen = torch.zeros(len(tokenizer), dtype=torch.bool)
    model.train()
    start = said = time.monotonic()
    for step in range(1, steps + 1):
        ids = torch.tensor(list(islice(stream, rows)))
        seen[ids.flatten()] = True
        with torch.autocast(model.device.type, torch.bfloat16, enabled=settings.bf16):
            loss = step_loss(ids.to(model.device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        share = step / warmup if step < warmup else 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / (steps - warmup))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * share
            optimizer.step()
            optimizer.zero_grad()
        now = time.monotonic()
        if now - said > 10 or step == steps:
            said = now
            speed = step * rows * settings.block_length / (now - start)
            left = (steps - step) * (now - start) / step
            console.print(
                f"step {step:,}/{steps:,}  loss {loss.item():.3f}  {speed:,.0f} tokens/s  {left:,.0f} s left",
                highlight=False,
            )
    return seen


def new_optimizers(
    model: "LlamaForCausalLM", settings: PretrainSettings
) -> "tuple[torch.optim.Muon, torch.optim.AdamW]":
    """Muon for the matrices of the layers, AdamW for embedding and norms; one learning rate suits both.

    On the micro-world this comes to a given loss in a fifth fewer steps than AdamW alone.
    """
    import torch

    matrices = [parameter for parameter in model.model.layers.parameters() if parameter.dim() == 2]
    norms = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    decay, rate = settings.weight_decay, settings.learning_rate
    groups = [
        {"params": [model.get_input_embeddings().weight], "weight_decay": decay},
        {"params": norms, "weight_decay": 0.0},
    ]
    return (
        torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True),
    )


def spread_unseen(embedding: "torch.Tensor", seen: "torch.Tensor") -> None:
    """Give every token that never occurred a vector of its own, in place.

    All their vectors were pushed the same way, out of the way of every prediction; without this the role
    marks would look alike to the model, and adapters that leave the embeddings alone could not tell them
    apart.

    Args:
        embedding: Shape (vocabulary, width), tied to the output layer.
        seen: Which ids occurred, shape (vocabulary,), bool.
    """
    import torch

    with torch.no_grad():
        seen = seen.to(embedding.device)
        unseen = embedding[~seen]
        embedding[~seen] = unseen + torch.randn_like(unseen) * embedding[seen].std(dim=0)


def save(model: "LlamaForCausalLM", tokenizer: "PreTrainedTokenizerFast", out: Path) -> None:
    """Write the folder under another name, then rename it: a half-written model is never found.

    The weights are stored as float16 to be small, the config says float32, which is what they load as.
    """
    import torch

    unfinished = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.to(torch.float16).save_pretrained(unfinished)
    config = json.loads((unfinished / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = "float32"
    (unfinished / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(unfinished)
    if out.exists():
        out.rmdir()
    os.replace(unfinished, out)
