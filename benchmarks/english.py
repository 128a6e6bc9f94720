"""Raw text for a base model of one's own: what the training rows of a data folder say, and nothing of its test rows.

    python -m benchmarks.english DIR runs/english.txt
    continual pretrain benchmarks/english-35M.yaml pretrain.tokenizer.name_or_path=FOLDER

A document is the input of a row, or a long output, or a conversation; instructions, short answers and pairs of input
and output are left out, so that the model knows the texts and no task. A blank line ends a document.
"""

import argparse
import gzip
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

LONG = 100
"""Characters from which on an output is text, and not an answer."""
SHARED = 12
"""A document with so many words in a row of a test row is left out."""
ASCII = 0.9
"""The least share of a document's characters, for the vocabulary is an English one."""


def rows(folder: Path, split: str) -> Iterator[dict[str, Any]]:
    for file in sorted(folder.glob(f"*/*.{split}.jsonl.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def documents(row: dict[str, Any]) -> Iterator[str]:
    """The texts of a row, without blank lines."""
    told = [str(message["content"] or "") for message in row.get("messages", ())]
    output = str(row.get("output") or "")
    for text in ("\n".join(told), str(row.get("input") or ""), output if len(output) >= LONG else ""):
        if cleaned := re.sub(r"\s*\n\s*", "\n", text).strip():
            yield cleaned


def windows(text: str) -> set[int]:
    """Every run of `SHARED` words, hashed; of a shorter text the whole."""
    words = re.findall(r"\w+", text.lower())
    return {hash(tuple(words[i : i + SHARED])) for i in range(max(1, len(words) - SHARED + 1))}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with <set>/<task>.<train|test>.jsonl.gz")
    parser.add_argument("out", type=Path)
    told = parser.parse_args(arguments)
    tested = {window for row in rows(told.folder, "test") for text in documents(row) for window in windows(text)}
    all_texts = dict.fromkeys(text for row in rows(told.folder, "train") for text in documents(row))
    english = [text for text in all_texts if sum(map(str.isascii, text)) >= ASCII * len(text)]
    kept = [text for text in english if tested.isdisjoint(windows(text))]
    told.out.parent.mkdir(parents=True, exist_ok=True)
    told.out.write_text("\n\n".join(kept) + "\n", encoding="utf-8")
    size = sum(map(len, kept)) / 1e6
    print(f"{len(kept):,} documents, {size:.1f} M characters; {len(english) - len(kept):,} left out, as in test rows")


if __name__ == "__main__":
    main()
