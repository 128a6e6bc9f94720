"""A curriculum whose tasks are not announced: its rows one after another, cut into chunks of equal size.

LAMOL's `--unbound N` (jojotenya/LAMOL). Pure arithmetic on numbers of rows.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate

from continual.errors import ContinualError

PAST = "past"
"""What stands in the place of a task's name where everything so far is rehearsed together."""

Span = tuple[int, int]


def names(chunks: int) -> list[str]:
    """What the chunks are called."""
    return [f"chunk {number}" for number in range(1, chunks + 1)]


def bounds(rows: int, chunks: int) -> list[int]:
    """Where the chunks begin and end: chunk n holds the rows from bounds[n] to bounds[n + 1].

    Raises:
        ContinualError: there are more chunks than rows.
    """
    if chunks > rows:
        raise ContinualError(f"stream.chunks: {chunks} chunks of {rows} training rows would leave some empty")
    return [rows * number // chunks for number in range(chunks + 1)]


def spans(sizes: Sequence[int], chunks: int) -> list[Span]:
    """The first and the last chunk that hold rows of each task, counted from 1.

    Args:
        sizes: training rows of each task, in the order taught.
    """
    edges = bounds(sum(sizes), chunks)
    starts = [0, *accumulate(sizes)]

    def chunk_of(row: int) -> int:
        return next(number for number, end in enumerate(edges) if row < end)

    return [(chunk_of(start), chunk_of(start + size - 1)) for start, size in zip(starts, sizes, strict=False)]


def cut(sizes: Mapping[str, int], chunks: int) -> list[dict[str, int]]:
    """How many rows of each task are in each chunk."""
    edges = bounds(sum(sizes.values()), chunks)
    ends = dict(zip(sizes, accumulate(sizes.values()), strict=True))
    found = []
    for low, high in zip(edges, edges[1:], strict=False):
        inside = {task: min(high, end) - max(low, end - sizes[task]) for task, end in ends.items()}
        found.append({task: rows for task, rows in inside.items() if rows > 0})
    return found
