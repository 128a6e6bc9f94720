"""What adapters add to the linear modules of a base model, chosen row by row of a batch.

An adapter is one vector, laid out so that what a batch needs of it is copied at once, and all its matrices are
views of it. Modules that are given the same tensor (queries, keys and values; gate and up) share one product with A.
Three ways to compute the rows' changes, by who is in the batch; all give the same to rounding:

- `Same`: one adapter for all rows, two plain products, nothing copied.
- `Stacked`: few adapters for many rows. All rows are multiplied with all adapters' A side by side, and what is not a
  row's own is masked: rows that come and go cost a mask.
- `PerRow`: each row has its adapter in its own place of a buffer, and products are batched over rows, as in Punica
  (Chen et al., 2023). A row that changes costs one copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from continual.guard import guard
from continual.request import HeldAdapter

guard()

import torch  # noqa: E402
from torch import nn  # noqa: E402
from transformers.pytorch_utils import Conv1D  # noqa: E402

FEW = 4
"""Adapters are few where each has so many rows on average: with fewer, masks multiply more than copies cost."""


class Site(NamedTuple):
    """A linear module that an adapter may change: one that is called once for all tokens of all rows."""

    number: int
    name: str
    module: nn.Module
    group: int
    """Modules of a group are given the same tensor, one after the other."""
    inputs: int
    outputs: int


@torch.no_grad()
def sites(model: Any) -> list[Site]:
    """Every such module of a model, in the order in which they are called, found by calling the model once."""
    found: list[Site] = []
    last: list[Any] = [None]
    seen: set[str] = set()
    rows, columns = 2, 3

    def note(name: str, module: Any, x: torch.Tensor) -> None:
        # Latent attention calls one with (rows, 1, columns, inputs), where columns are those of the cache.
        whole = len(x) == rows * columns if x.dim() == 2 else len(x) == rows
        if name not in seen and whole:
            group = (found[-1].group + (x is not last[0])) if found else 0
            outputs = module.nf if isinstance(module, Conv1D) else module.out_features
            found.append(Site(len(found), name, module, group, x.shape[-1], outputs))
            last[0] = x
        seen.add(name)

    hooks = [
        module.register_forward_pre_hook(lambda module, args, name=name: note(name, module, args[0]))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    ]
    try:
        model(input_ids=torch.zeros(rows, columns, dtype=torch.long, device=model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found


class Block(NamedTuple):
    """Where the matrices of one site lie in an adapter's vector."""

    site: Site
    a: int
    """Where A of its group begins: (members x rank, inputs)."""
    members: int
    place: int
    """Its place among the members."""
    b: int
    """Where its B begins, transposed: (rank, outputs)."""


class Layout:
    """How adapters of one rank that change the same sites lie in a vector.

    Args:
        changed: the sites, in their order.
    """

    def __init__(self, changed: Sequence[Site], rank: int) -> None:
        self.rank, self.size = rank, 0
        self.blocks: list[Block] = []
        groups: dict[int, list[Site]] = {}
        for site in changed:
            groups.setdefault(site.group, []).append(site)
        for members in groups.values():
            a = self.size
            self.size += len(members) * rank * members[0].inputs
            for place, site in enumerate(members):
                self.blocks.append(Block(site, a, len(members), place, self.size))
                self.size += rank * site.outputs

    def matrices(self, vectors: torch.Tensor) -> Iterator[tuple[Block, torch.Tensor, torch.Tensor]]:
        """Of each block A of its group (n, members x rank, inputs) and B (n, rank, outputs): views of (n, size)."""
        n, a = len(vectors), None
        for block in self.blocks:
            site, height = block.site, block.members * self.rank
            if block.place == 0:
                a = vectors[:, block.a : block.a + height * site.inputs].view(n, height, site.inputs)
            assert a is not None
            yield block, a, vectors[:, block.b : block.b + self.rank * site.outputs].view(n, self.rank, site.outputs)

    def factors(self, vector: torch.Tensor) -> Iterator[tuple[Site, torch.Tensor, torch.Tensor]]:
        """Of each site A (rank, inputs) and B transposed (rank, outputs): views of (size,)."""
        for block, a, b in self.matrices(vector[None]):
            yield block.site, a[0, block.place * self.rank : (block.place + 1) * self.rank], b[0]


def copy(vector: torch.Tensor, layout: Layout, to: torch.Tensor, wider: Layout) -> None:
    """Write an adapter into the place of another layout, which has at least its rank and its sites."""
    if layout is wider:
        to.copy_(vector)
        return
    to.zero_()
    room = {site.number: (a, b) for site, a, b in wider.factors(to)}
    for site, a, b in layout.factors(vector):
        wide_a, wide_b = room[site.number]
        wide_a[: layout.rank].copy_(a)
        wide_b[: layout.rank].copy_(b)


class Delta(Protocol):
    """What the rows of the present batch add."""

    def add(self, number: int, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Add a site's change to what it made of `x`, in place.

        Args:
            number: the site's.
            x: (rows, …, inputs), or (rows x columns, inputs).
            y: likewise, with outputs.
        """


Entry = tuple[torch.Tensor, int, torch.Tensor]
"""A of the group, the site's place in it, its B."""


@dataclass
class Same:
    """One adapter for all rows: A (members x rank, inputs), B (rank, outputs)."""

    table: dict[int, Entry]
    rank: int
    """Columns of a product with A that belong to one module."""
    x: torch.Tensor | None = None
    parts: Sequence[torch.Tensor] = ()

    @staticmethod
    def entries(vector: torch.Tensor, layout: Layout) -> dict[int, Entry]:
        """By the site's number, views of the vector."""
        told = layout.matrices(vector[None])
        return {block.site.number: (a[0], block.place, b[0]) for block, a, b in told}

    def shared(self, x: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """What all modules of a group share, (rows x columns, height of A)."""
        return nn.functional.linear(x, a).view(-1, a.shape[0])

    def add(self, number: int, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        found = self.table.get(number)
        if found is None:
            return y
        a, place, b = found
        if x is not self.x:
            self.parts = self.shared(x, a).split(self.rank, 1)
            self.x = x
        y.view(-1, b.shape[1]).addmm_(self.parts[place], b)
        return y


@dataclass
class Stacked(Same):
    """All adapters' A side by side, (members x adapters x rank, inputs), and B (adapters x rank, outputs)."""

    masks: dict[int, torch.Tensor] = field(default_factory=dict)
    """By the height of A: where another adapter than the row's own stands; bool, (rows, 1, height)."""

    @staticmethod
    def entries(vectors: torch.Tensor, layout: Layout) -> dict[int, Entry]:
        """From the adapters' vectors, (adapters, size)."""
        table, wide, n = {}, torch.empty(0), len(vectors)
        for block, a, b in layout.matrices(vectors):
            site = block.site
            if block.place == 0:
                wide = a.view(n, block.members, layout.rank, site.inputs).transpose(0, 1).reshape(-1, site.inputs)
            table[site.number] = (wide, block.place, b.reshape(-1, site.outputs))
        return table

    def shared(self, x: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """Of each row only what its own adapter makes; all else is 0."""
        others = self.masks[a.shape[0]]
        # Not times 0: what overflowed in another row's adapter would stay.
        made = nn.functional.linear(x.reshape(len(others), -1, a.shape[1]), a).masked_fill_(others, 0)
        return made.view(-1, a.shape[0])


@dataclass
class PerRow:
    """Each row's own A, (rows, members x rank, inputs), and B (rows, rank, outputs)."""

    table: dict[int, Entry]
    rank: int
    rows: int
    x: torch.Tensor | None = None
    parts: Sequence[torch.Tensor] = ()

    @staticmethod
    def entries(vectors: torch.Tensor, layout: Layout) -> dict[int, Entry]:
        """From the rows' vectors, (rows, size): views of them."""
        told = layout.matrices(vectors)
        return {block.site.number: (a.transpose(1, 2), block.place, b) for block, a, b in told}

    def add(self, number: int, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        found = self.table.get(number)
        if found is None:
            return y
        a, place, b = found
        if x is not self.x:
            h = torch.bmm(x if x.dim() == 3 else x.reshape(self.rows, -1, x.shape[-1]), a)
            self.parts = h.split(self.rank, 2)
            self.x = x
        (y if y.dim() == 3 else y.view(self.rows, -1, y.shape[-1])).baddbmm_(self.parts[place], b)
        return y


@dataclass(eq=False)
class Held(HeldAdapter):
    """An adapter's matrices on the model's device."""

    name: str
    layout: Layout
    vector: torch.Tensor
    """(size,), in the model's dtype."""
    table: dict[int, Entry] = field(init=False)

    def __post_init__(self) -> None:
        self.table = Same.entries(self.vector, self.layout)

    @property
    def bytes(self) -> int:
        return self.vector.nbytes


class Batch:
    """The adapters of the rows at work in one thread, and what was copied for them."""

    def __init__(self) -> None:
        self.rows: list[Held | None] = []
        self.delta: Delta | None = None
        self._buffer, self._layout = torch.empty(0, 0), Layout([], 0)
        self._slots: list[Held | Batch | None] = []
        self._views: dict[int, dict[int, Entry]] = {}
        self._stack: tuple[list[Held], Layout, dict[int, Entry]] | None = None

    @torch.inference_mode(False)  # what is kept here may be written to inside that mode and outside of it
    @torch.no_grad()
    def take(self, rows: list[Held | None], layout: Layout) -> None:
        """Make these the rows.

        Args:
            layout: one that has room for all of them.
        """
        self.rows = rows
        if not any(rows):
            self.delta = None
            return
        different = list(dict.fromkeys(row for row in rows if row is not None))
        if len(different) == 1 and None not in rows:
            self.delta = Same(different[0].table, different[0].layout.rank)
        elif len(different) * FEW <= len(rows):
            self.delta = self._stacked(rows, different, layout)
        else:
            self.delta = self._per_row(rows, layout)

    def _stacked(self, rows: list[Held | None], different: list[Held], layout: Layout) -> Stacked:
        kept = self._stack
        # One that has left may stay for a while: what is stacked is copied again only where it pays.
        fits = kept is not None and kept[1] is layout and set(different) <= set(kept[0])
        if kept is None or not fits or len(kept[0]) > 2 * len(different):
            vectors = torch.stack([_in(held, layout) for held in different])
            self._stack = kept = (different, layout, Stacked.entries(vectors, layout))
        adapters, _, table = kept
        place = {held: n for n, held in enumerate(adapters)}
        others = torch.ones(len(rows), 1, 1, len(adapters), 1, dtype=torch.bool)
        for n, row in enumerate(rows):
            if row is not None:
                others[n, 0, 0, place[row]] = False
        others = others.to(different[0].vector.device)
        masks = {
            block.members * len(adapters) * layout.rank: others.expand(-1, 1, block.members, -1, layout.rank)
            for block in layout.blocks
        }
        masks = {height: mask.reshape(len(rows), 1, height) for height, mask in masks.items()}
        return Stacked(table, len(adapters) * layout.rank, masks=masks)

    def _per_row(self, rows: list[Held | None], layout: Layout) -> PerRow:
        n = len(rows)
        if layout is not self._layout or n > len(self._buffer):
            like = next(row.vector for row in rows if row is not None)
            self._buffer, self._layout = like.new_empty(n, layout.size), layout
            self._slots, self._views = [self] * n, {}  # itself: not even the base's zeros are there
        for place, row in enumerate(rows):
            if row is not self._slots[place]:
                if row is None:
                    self._buffer[place].zero_()
                else:
                    copy(row.vector, row.layout, self._buffer[place], layout)
                self._slots[place] = row
        if n not in self._views:
            self._views[n] = PerRow.entries(self._buffer[:n], layout)
        return PerRow(self._views[n], layout.rank, n)


def _in(held: Held, layout: Layout) -> torch.Tensor:
    """An adapter's vector in another layout."""
    if held.layout is layout:
        return held.vector
    vector = held.vector.new_empty(layout.size)
    copy(held.vector, held.layout, vector, layout)
    return vector
