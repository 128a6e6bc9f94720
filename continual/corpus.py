"""The raw text a base model reads: documents from files or a Python function, packed into blocks of ids."""

import random
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from continual.errors import ContinualError
from continual.seeds import derive

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_AT_ONCE = 1000
"""Documents handed to the tokenizer in one call."""


def from_function(file: Path, function: str, seed: int) -> Iterator[str]:
    """The documents of `function(seed)` in a Python file, which may import its neighbours as a script may.

    Raises:
        ContinualError: the file has no such function.
    """
    sys.path.insert(0, str(file.parent))
    try:
        made: Callable[[int], Iterator[str]] | None = runpy.run_path(str(file)).get(function)
    finally:
        sys.path.remove(str(file.parent))
    if made is None:
        raise ContinualError(f"{file}: no function {function!r}")
    return made(seed)


def from_files(files: Sequence[Path], seed: int) -> Iterator[str]:
    """The documents of text files (a blank line ends one) without end, in a new order each time round.

    Raises:
        ContinualError: the files hold no document.
    """
    texts = [part.strip("\n") for file in files for part in file.read_text(encoding="utf-8").split("\n\n")]
    documents = [text for text in texts if text.strip()]
    if not documents:
        raise ContinualError(f"{', '.join(map(str, files))}: no text")
    epoch = 0
    while True:
        yield from random.Random(derive(seed, "documents", epoch)).sample(documents, len(documents))
        epoch += 1


def blocks(documents: Iterator[str], tokenizer: "Tokenizer", end: int, length: int) -> Iterator[list[int]]:
    """Blocks of `length` ids without end: document after document, each followed by the id `end`."""
    rest: list[int] = []
    while texts := list(islice(documents, _AT_ONCE)):
        for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False):
            rest += encoding.ids
            rest.append(end)
        whole = len(rest) // length * length
        for start in range(0, whole, length):
            yield rest[start : start + length]
        rest = rest[whole:]
