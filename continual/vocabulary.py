"""A small tokenizer made from a corpus: whole words and single Chinese characters, bytes for all the rest."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from continual.guard import guard

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

PAD, END = "<|pad|>", "<|end|>"
SPECIAL = (PAD, END, "<|user|>", "<|assistant|>", "<|system|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
RARE = 10
"""A word seen less often than this in the counted documents is spelt in bytes."""

# One Chinese character is one piece, because writing without spaces would otherwise be cut by chance.
_PIECES = r"\p{Han}| ?[^\s\p{Han}\p{P}\p{N}]+| ?\p{N}| ?\p{P}|\s"


def train_vocabulary(documents: Iterable[str], size: int, words: Sequence[str] = ()) -> "Tokenizer":
    """A byte-level tokenizer of at most `size` entries that round-trips any text.

    It takes the special tokens, the 256 bytes, then `words` (with and without a space before them), then the
    most frequent pieces of the documents.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    cut = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    counts = Counter(piece for text in documents for piece, _ in cut.pre_tokenize_str(text))
    frequent = sorted((piece for piece in counts if counts[piece] >= RARE), key=lambda piece: (-counts[piece], piece))
    wanted = [piece for word in words for text in (word, f" {word}") for piece, _ in cut.pre_tokenize_str(text)]
    entries = dict.fromkeys([*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *wanted, *frequent])
    vocabulary = {entry: index for index, entry in enumerate(list(entries)[:size])}
    # Without merges a word is either an entry of its own (`ignore_merges` looks there first) or its bytes.
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = cut
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def with_chat(tokenizer: "Tokenizer", max_length: int) -> "PreTrainedTokenizerFast":
    """The tokenizer as transformers knows it, with end token, padding and chat template."""
    guard()
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=list(SPECIAL[2:]),
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
