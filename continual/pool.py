"""The rows of a split, each with a fixed hash: rendered in memory, or on the disk until they are wanted."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from continual.rendering import Rendered, Renderer
from continual.rowfiles import LargeRows, Row


@dataclass(frozen=True)
class Pool:
    """What a split is drawn from.

    Rows in memory are hashed as they are rendered: two rows that say the same have one hash, whatever else
    stands in them. Rows on the disk are hashed as they stand there, since rendering millions of them to
    choose a few hundred would take minutes.
    """

    renderer: Renderer
    keys: np.ndarray
    """The fixed hash of each row, uint64."""
    units: np.ndarray
    """The hash by which each row is drawn: turns of a dialogue share theirs."""
    split: str
    in_memory: list[Rendered]
    rows: LargeRows | None

    @classmethod
    def of(cls, renderer: Renderer, rows: list[Row] | LargeRows, split: str) -> Self:
        """Render rows in memory; leave those on the disk where they are.

        Raises:
            ContinualError: a row in memory does not fit the templates.
        """
        if not isinstance(rows, list):
            return cls(renderer, rows.digests, rows.digests, split, [], rows)
        rendered = renderer.render(rows, split)
        keys = np.array([one.key for one in rendered], dtype=np.uint64)
        units = np.array([one.unit for one in rendered], dtype=np.uint64)
        return cls(renderer, keys, units, split, rendered, None)

    @property
    def on_disk(self) -> bool:
        """Whether rows are rendered only when they are wanted."""
        return self.rows is not None

    def count(self, indices: np.ndarray) -> int:
        """The number of rows at these indices that ``where`` keeps."""
        if self.rows is None or self.renderer.where is None:
            return len(indices)
        rendered = zip(indices.tolist(), self.rows.take(indices.tolist()), strict=True)
        return sum(self._row(index, row) is not None for index, row in rendered)

    def distinct(self, indices: np.ndarray) -> np.ndarray:
        """The different hashes by which the rows at these indices are drawn, in order."""
        # Eight times as fast as np.unique, which sorts by a table of hashes, for millions of rows.
        units = np.sort(self.units[indices])
        return units[np.concatenate(([True], units[1:] != units[:-1]))]

    def rendered(self, indices: np.ndarray, limit: int | None) -> list[Rendered]:
        """The rows at ascending indices; with a limit those with the smallest hashes that ``where`` keeps.

        Raises:
            ContinualError: a row cannot be read, or does not fit the templates.
        """
        if limit is None or limit >= len(indices):
            return [one for _, one in self._at(indices)]
        by_hash = indices[np.argsort(self.units[indices], kind="stable")]
        kept: dict[int, Rendered] = {}
        start = 0
        while len(kept) < limit and start < len(by_hash):
            end = start + limit - len(kept)
            kept.update(self._at(np.sort(by_hash[start:end])))
            start = end
        return [kept[index] for index in sorted(kept)]

    def _at(self, indices: np.ndarray) -> list[tuple[int, Rendered]]:
        places = indices.tolist()
        if self.rows is None:
            return [(place, self.in_memory[place]) for place in places]
        rendered = ((place, self._row(place, row)) for place, row in zip(places, self.rows.take(places), strict=True))
        return [(place, one) for place, one in rendered if one is not None]

    def _row(self, index: int, row: Row) -> Rendered | None:
        return self.renderer.render_row(row, index + 1, self.split)
