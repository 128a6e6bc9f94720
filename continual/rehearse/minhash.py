"""Near-duplicates by MinHash (Broder, 1997, "On the resemblance and containment of documents")."""

from __future__ import annotations

import hashlib

import numpy as np

HASHES = 64
SHINGLE = 3
_PRIME = (1 << 61) - 1
_RANDOM = np.random.default_rng(0)
_A = [int(a) for a in _RANDOM.integers(1, _PRIME, HASHES)]
_B = [int(b) for b in _RANDOM.integers(0, _PRIME, HASHES)]


def shingles(text: str) -> set[str]:
    """All runs of three words; shorter texts are one shingle."""
    words = text.lower().split()
    return {" ".join(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))}


def signature(text: str) -> np.ndarray:
    """The least value of each hash function over a text's shingles, (HASHES,) int64."""
    values = [int.from_bytes(hashlib.blake2b(s.encode(), digest_size=7).digest(), "big") for s in shingles(text)]
    least = [min((a * value + b) % _PRIME for value in values) for a, b in zip(_A, _B, strict=True)]
    return np.array(least, dtype=np.int64)


def resemblance(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The estimated Jaccard similarity of a text and some others, (n,), from (HASHES,) and (n, HASHES)."""
    return (others == one).mean(axis=1)
