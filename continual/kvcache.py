"""The keys and values of rows that join and leave: one buffer per layer, written in place.

Rows stand side by side so that all write into the same column: a row that joins later is put with its last
token beside the others' newest. A row's own columns begin at its start; earlier ones are masked. transformers'
own cache copies itself at every token, which costs more than the attention does.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from continual.errors import ContinualError
from continual.guard import guard

guard()

import torch  # noqa: E402
from transformers.cache_utils import (  # noqa: E402
    Cache,
    DummyLayer,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
)

States = list[tuple[torch.Tensor, torch.Tensor] | None]
"""Keys and values of each layer, (rows, heads, columns, size); None for a layer that keeps none."""


def layers_kept(model: Any) -> list[bool]:
    """Which layers of a model keep keys and values.

    Raises:
        ContinualError: the model keeps something else, such as the state of a recurrent layer, or nothing.
    """
    name = type(model).__name__
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        raise ContinualError(f"model_name_or_path: {name} keeps no key-value cache: it cannot be decoded here")
    config = model.config.get_text_config(decoder=True)
    layers = DynamicCache(config=config).layers
    other = {type(layer).__name__ for layer in layers} - {
        kind.__name__ for kind in (DynamicLayer, DynamicSlidingWindowLayer, DummyLayer)
    }
    if other or "chunked_attention" in (getattr(config, "layer_types", None) or ()):
        what = ", ".join(sorted(other)) or "chunked attention"
        raise ContinualError(
            f"model_name_or_path: {name} keeps more than keys and values ({what}): rows of different length cannot "
            "share a batch, so it is not supported"
        )
    return [not isinstance(layer, DummyLayer) for layer in layers]


def plain_cache(kept: Sequence[bool]) -> Cache:
    """An empty cache for a prefill, which keeps every column, of sliding windows as well."""
    return Cache(layers=[DynamicLayer() if keeps else DummyLayer() for keeps in kept])


def states_of(cache: Cache) -> States:
    """What a prefill has left behind."""
    return [(layer.keys, layer.values) if isinstance(layer, DynamicLayer) else None for layer in cache.layers]


class SlotLayer(DynamicLayer):
    """One layer: buffers of (rows, heads, columns, size), of which the first rows and the columns `lo` to `hi` are in
    use.
    """

    def __init__(self, rows: int, columns: int, at: int) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns
        self.lo = self.hi = at

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.all_keys, self.all_values = (
            states.new_empty(self.rows, states.shape[1], self.columns, states.shape[3])
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        used, end = len(key_states), self.hi + key_states.shape[2]
        self.all_keys[:used, :, self.hi : end] = key_states
        self.all_values[:used, :, self.hi : end] = value_states
        self.hi = end
        self.keys, self.values = (x[:used, :, self.lo : end] for x in (self.all_keys, self.all_values))
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.hi - self.lo

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.hi - self.lo + query_length, 0


class SlotCache(Cache):
    """What a model takes for its cache, with room for `rows` rows.

    Sliding windows are kept whole: the model's own mask hides what is too old, and the distance between two
    columns is the distance between two tokens.
    """

    def __init__(self, kept: Sequence[bool], rows: int, columns: int, at: int) -> None:
        self.kept, self.rows, self.columns = kept, rows, columns
        super().__init__(layers=[SlotLayer(rows, columns, at) if keeps else DummyLayer() for keeps in kept])

    @property
    def slots(self) -> list[SlotLayer]:
        """The layers that keep something."""
        return [layer for layer in self.layers if isinstance(layer, SlotLayer)]

    @property
    def hi(self) -> int:
        """The next column to be written."""
        return self.slots[0].hi

    def look_from(self, lo: int) -> None:
        """Hide the columns before `lo`, of which no row has any use."""
        for layer in self.slots:
            layer.lo = lo

    def put(self, states: States | None, rows: Sequence[int], lengths: Sequence[int], first: int) -> None:
        """Write what a prefill has computed so that it ends before column `hi`.

        Args:
            states: of the prefill; None where nothing came before the last tokens of the prompts.
            rows: rows of `states`, one for each of
            lengths: how many columns of each row, from the first on, are real.
            first: the row here that the first of them takes; the others follow.
        """
        groups: dict[int, list[int]] = {}
        for n, length in enumerate(lengths):
            groups.setdefault(length, []).append(n)
        for n, layer in enumerate(self.layers):
            if not isinstance(layer, SlotLayer):
                continue
            pair = states[n] if states is not None else None
            if not layer.is_initialized and pair is not None:
                layer.lazy_initialization(*pair)
            if layer.is_initialized:
                # What is masked is multiplied by 0: it must be a number, which new memory need not hold.
                layer.all_keys[first : first + len(lengths), :, : layer.hi] = 0
                layer.all_values[first : first + len(lengths), :, : layer.hi] = 0
            if pair is None:
                continue
            for length, members in groups.items():
                source = torch.tensor([rows[i] for i in members], device=layer.device)
                target = torch.tensor([first + i for i in members], device=layer.device)
                for mine, theirs in zip((layer.all_keys, layer.all_values), pair, strict=True):
                    mine[target, :, layer.hi - length : layer.hi] = theirs[source, :, :length]

    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Put some rows into the places of others that have left."""
        for layer in self.slots:
            source, target = (torch.tensor(rows, device=layer.device) for rows in (sources, targets))
            for states in (layer.all_keys, layer.all_values):
                states[target, :, layer.lo : layer.hi] = states[source, :, layer.lo : layer.hi]

    def repack(self, used: int, rows: int, lo: int, at: int, columns: int) -> SlotCache:
        """A cache of another size, with the first `used` rows of this one.

        Args:
            rows: rows of the new cache.
            lo: the first column in use; it becomes column
            at: of the new cache.
            columns: of the new cache.
        """
        new = SlotCache(self.kept, rows, columns, at)
        width = self.hi - lo
        for old, layer in zip(self.slots, new.slots, strict=True):
            layer.hi = at + width
            layer.lazy_initialization(old.all_keys, old.all_values)
            for mine, theirs in ((layer.all_keys, old.all_keys), (layer.all_values, old.all_values)):
                mine[:used, :, :at] = 0
                mine[:used, :, at : at + width] = theirs[:used, :, lo : old.hi]
            del old.all_keys, old.all_values  # layer by layer: never two whole caches at once
        return new
