"""The bank of adapters: many on one base model, outside its module tree, chosen for each row of a batch."""

from __future__ import annotations

import math
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from continual import lora
from continual.deltas import Batch, Held, Layout, Site, sites
from continual.errors import ContinualError
from continual.guard import guard
from continual.lora import Lora
from continual.problems import did_you_mean
from continual.request import Chosen, HeldAdapter, Mix

guard()

import torch  # noqa: E402

Key = Any
"""What is held: a `Source`, or of a mix its sources with their weights."""


class Stamp(NamedTuple):
    """Tells whether an adapter's file is the one that was read."""

    modified: int
    size: int


class Source:
    """What was loaded under a name, and where it can be read again."""

    def __init__(self, name: str, folder: Path | None) -> None:
        self.name, self.folder = name, folder
        self.temporary: tempfile.TemporaryDirectory[str] | None = None
        """Where one given as tensors is kept; goes with the last who refers to this."""
        self.stamp = None if folder is None else stamp(folder)


def stamp(folder: Path) -> Stamp | None:
    weights = folder / lora.WEIGHTS
    told = weights.stat() if weights.is_file() else None
    return told and Stamp(told.st_mtime_ns, told.st_size)


class _Here(threading.local):
    """What each thread has chosen: threads that use one model do not see each other."""

    def __init__(self) -> None:
        self.batch = Batch()


class AdapterBank:
    """Adapters of one base model, as `RowAdapters` of a `Decoder`.

    All methods may be called from any thread. A request holds what it was given when it came: what is loaded,
    replaced or unloaded later is nothing to it.

    Args:
        model: the base, a causal language model of transformers. It answers as before wherever nobody is chosen.
        memory: the most bytes of adapters that nobody needs at the moment but the last one; the least recently
            used go, and are read again when they are asked for. None: all stay.

    Raises:
        ContinualError: the model is a PEFT model, or has no linear modules.
    """

    def __init__(self, model: Any, *, memory: int | None = None) -> None:
        if "peft" in type(model).__module__:
            raise ContinualError("a bank of adapters needs the base model itself, without an adapter on it")
        self.model, self.memory = model, memory
        self._sites = {site.name: site for site in sites(model)}
        if not self._sites:
            raise ContinualError(f"{type(model).__name__} has no linear module that an adapter could change")
        self._lock = threading.RLock()
        self._here = _Here()
        self._names: dict[str, Source] = {}
        self._layouts: dict[tuple[int, frozenset[int]], Layout] = {}
        self._kept: OrderedDict[Source, Held] = OrderedDict()
        self._alive: WeakValueDictionary[Key, Held] = WeakValueDictionary()
        self._wrapped: set[int] = set()

    def names(self) -> list[str]:
        """What is loaded, oldest first."""
        with self._lock:
            return list(self._names)

    @property
    def bytes(self) -> int:
        """Of the adapters that are kept in memory; what rows at work need may be more."""
        with self._lock:
            return sum(held.bytes for held in self._kept.values())

    def load(self, name: str, adapter: Path | str | Lora) -> None:
        """Make an adapter known; an older one of that name answers what was asked of it, and nothing new.

        Args:
            adapter: a PEFT folder, or an adapter as tensors.

        Raises:
            ContinualError: the folder cannot be used, see `lora.load`, or the adapter belongs to another base.
        """
        source = Source(name, None if isinstance(adapter, Lora) else Path(adapter))
        read = adapter if isinstance(adapter, Lora) else lora.load(Path(adapter))
        held = self._held(name, read)
        if isinstance(adapter, Lora) and self.memory is not None:
            source.temporary = tempfile.TemporaryDirectory(prefix="continual-")
            source.folder = Path(source.temporary.name)
            lora.save(read, source.folder)
            source.stamp = stamp(source.folder)
        with self._lock:
            self._forget(name)
            self._names[name] = source
            self._keep(source, held)

    def unload(self, name: str) -> None:
        """Forget an adapter; rows that it answers are answered.

        Raises:
            ContinualError: there is none of that name.
        """
        with self._lock:
            self._source(name)
            self._forget(name)

    def hold(self, adapter: Chosen) -> HeldAdapter | None:
        """What is chosen, as it is now; it lives as long as somebody refers to it.

        Raises:
            ContinualError: there is no such adapter, a mix is wrong, or what was on disk has changed since.
        """
        if adapter is None or isinstance(adapter, HeldAdapter):
            return adapter
        with self._lock:
            key = self._source(adapter) if isinstance(adapter, str) else self._mix(adapter)
            held = self._alive.get(key)
            if held is None:
                held = self._read(key) if isinstance(key, Source) else self._mixed(key)
            self._keep(key, held)
            return held

    def use(self, rows: Sequence[Chosen]) -> None:
        """Choose for the next forward passes of this thread, one adapter per row; none for an ordinary model again.

        Raises:
            TypeError: a single name is given instead of one for each row.
            ContinualError: see `hold`.
        """
        if isinstance(rows, str):
            raise TypeError(f"rows: a list with one adapter for each row is expected, not '{rows}'")
        batch = self._here.batch
        if not rows:
            self._here.batch = Batch()
        elif rows != batch.rows:
            known: dict[Any, Any] = {row: self.hold(row) for row in dict.fromkeys(rows)}
            held = [known[row] for row in rows]
            if held != batch.rows:
                batch.take(held, self._room(held))

    def _source(self, name: str) -> Source:
        if name not in self._names:
            known = ", ".join(self._names) or "none"
            raise ContinualError(f"unknown adapter '{name}'{did_you_mean(name, self._names)}; there is {known}")
        return self._names[name]

    def _mix(self, mix: Mix) -> Key:
        if not mix:
            raise ContinualError("a mix of adapters needs at least one")
        wrong = [name for name, weight in mix if not math.isfinite(weight)]
        if wrong:
            raise ContinualError(f"the weight of '{wrong[0]}' in a mix is no number")
        return tuple((self._source(name), float(weight)) for name, weight in mix)

    def _forget(self, name: str) -> None:
        gone = self._names.pop(name, None)
        if gone is not None:
            self._kept.pop(gone, None)

    def _keep(self, key: Key, held: Held) -> None:
        self._alive[key] = held
        if not isinstance(key, Source):
            return  # a mix lives as long as somebody uses it: there is no end of weights that may be asked for
        self._kept[key] = held
        self._kept.move_to_end(key)
        while self.memory is not None and len(self._kept) > 1 and self.bytes > self.memory:
            self._kept.popitem(last=False)

    def _read(self, source: Source) -> Held:
        assert source.folder is not None
        if stamp(source.folder) != source.stamp:
            raise ContinualError(f"{source.folder}: changed since it was loaded as '{source.name}': load it again")
        return self._held(source.name, lora.load(source.folder))

    @torch.inference_mode(False)
    @torch.no_grad()
    def _held(self, name: str, adapter: Lora) -> Held:
        """An adapter's matrices in the model's dtype and on its device."""
        changed = [self._site(name, module, adapter) for module in adapter.factors]
        layout = self._layout(adapter.rank, {site.number for site in changed})
        vector = torch.zeros(layout.size, dtype=self.model.dtype)
        for site, a, b in layout.factors(vector):
            factors = adapter.factors[site.name]
            a[: len(factors.a)] = factors.a
            b[: len(factors.a)] = factors.b.T
        self._wrap(changed)
        return self._finite(Held(name, layout, vector.to(self.model.device)))

    @torch.inference_mode(False)
    @torch.no_grad()
    def _mixed(self, key: Sequence[tuple[Source, float]]) -> Held:
        """A weighted sum of changes is one change, whose matrices are those of all, side by side."""
        parts = [self._alive.get(source) or self._read(source) for source, _ in key]
        numbers = {block.site.number for part in parts for block in part.layout.blocks}
        layout = self._layout(sum(part.layout.rank for part in parts), numbers)
        vector = torch.zeros(layout.size, dtype=self.model.dtype, device=self.model.device)
        room = {site.number: (a, b) for site, a, b in layout.factors(vector)}
        at = 0
        for part, (_, weight) in zip(parts, key, strict=True):
            rank = part.layout.rank
            for site, a, b in part.layout.factors(part.vector):
                room[site.number][0][at : at + rank] = a
                room[site.number][1][at : at + rank] = b * weight
            at += rank
        return self._finite(Held(" + ".join(f"{weight:g} {source.name}" for source, weight in key), layout, vector))

    def _finite(self, held: Held) -> Held:
        """The adapter, if it is one of numbers: else rows of others would be no numbers either, in the same batch."""
        if not bool(torch.isfinite(held.vector).all()):
            raise ContinualError(
                f"adapter '{held.name}': some of its values are no finite numbers in {self.model.dtype}"
            )
        return held

    def _site(self, name: str, module: str, adapter: Lora) -> Site:
        base = getattr(self.model.config, "name_or_path", "") or type(self.model).__name__
        of = f"adapter '{name}' (made for {adapter.base or 'an unnamed model'}) does not fit {base}: it changes"
        site = self._sites.get(module)
        if site is None:
            raise ContinualError(f"{of} '{module}', and there is no such linear module")
        a, b = adapter.factors[module]
        shape, own = (b.shape[0], a.shape[1]), (site.outputs, site.inputs)
        if shape != own or a.shape[0] != b.shape[1]:
            raise ContinualError(f"{of} '{module}' as (out, in) = {shape}, which is {own} there")
        return site

    def _layout(self, rank: int, numbers: set[int]) -> Layout:
        with self._lock:
            key = (rank, frozenset(numbers))
            if key not in self._layouts:
                self._layouts[key] = Layout([s for s in self._sites.values() if s.number in numbers], rank)
            return self._layouts[key]

    def _room(self, rows: Sequence[Held | None]) -> Layout:
        """The layout with room for all rows."""
        layouts = {row.layout for row in rows if row is not None}
        if len(layouts) == 1:
            return next(iter(layouts))
        numbers = {block.site.number for layout in layouts for block in layout.blocks}
        return self._layout(max((layout.rank for layout in layouts), default=0), numbers)

    def _wrap(self, changed: Sequence[Site]) -> None:
        """Let sites add what the rows of their thread have chosen."""
        with self._lock:
            for site in changed:
                if site.number not in self._wrapped:
                    self._wrapped.add(site.number)
                    site.module.forward = _adding(site.module.forward, site.number, self._here)


def _adding(plain: Any, number: int, here: _Here) -> Any:
    # In place of a hook, which costs three times as much in every module of every step.
    def forward(x: torch.Tensor) -> torch.Tensor:
        delta = here.batch.delta
        return plain(x) if delta is None else delta.add(number, x, plain(x))

    return forward
