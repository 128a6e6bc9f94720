"""Linear layers whose weights are frozen, computed without waste for as long as a model is trained.

PEFT computes x W + s (x A) B in seven operations, each with its own pass over the outputs and its own node in the
graph. Here a layer is one node, and layers that are given the same tensor (queries, keys and values; gate and up)
share it, and one product with all their A. Nothing is kept for the gradient but x and x A. Under autocast frozen
weights are cast once, not in every pass; torch remembers casts of trained weights only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from continual.guard import guard
from continual.precision import multiplied_in

guard()

import torch  # noqa: E402
from torch import nn  # noqa: E402
from transformers.pytorch_utils import Conv1D  # noqa: E402


@contextmanager
def fused(model: Any) -> Iterator[None]:
    """While it lasts, frozen linear layers and the plain LoRA adapters on them run as few products.

    The model's weights, its modules and what is saved of it are the same. A layer that is more than that (DoRA,
    several active adapters, quantized or trained weights, hooks inside) runs as PEFT has it.
    """
    casts = Casts()
    layers = [LoraProducts(module, casts) for module in model.modules() if _is_lora(module)]
    inside = {id(part) for layer in layers for part in layer.module.modules()}
    of_module = {layer.module: layer for layer in layers}
    for modules in _given_the_same(model, list(of_module)) if layers else ():
        Group([of_module[module] for module in modules])
    plain = [
        FrozenProducts(module, casts)
        for module in model.modules()
        if type(module) in (nn.Linear, Conv1D) and id(module) not in inside and not module.weight.requires_grad
    ]
    patched: list[LoraProducts | FrozenProducts] = [*layers, *plain]
    before = [(layer.module, vars(layer.module).get("forward")) for layer in patched]
    for layer in patched:
        layer.module.forward = layer.forward
    try:
        yield
    finally:
        for module, forward in before:
            if forward is None:
                del module.forward
            else:
                module.forward = forward


class Casts:
    """Frozen weights in the precision in which they are multiplied, each cast once."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[torch.Tensor, int, torch.Tensor]] = {}

    def of(self, weight: torch.Tensor, numbers: torch.dtype, multiplied: torch.dtype) -> torch.Tensor:
        """Return a weight rounded to `numbers`, as `multiplied`."""
        if weight.dtype == numbers == multiplied:
            return weight.detach()
        kept = self._made.get(id(weight))
        # A weight that was given other numbers has another version or other memory.
        if kept is None or kept[0].data_ptr() != weight.data_ptr() or kept[1] != weight._version:
            cast = weight.detach().to(numbers).to(multiplied)
            kept = self._made[id(weight)] = (weight.detach(), weight._version, cast)
        return kept[2]


@dataclass(frozen=True)
class Operand:
    """One layer as the products need it."""

    weight: torch.Tensor
    """(outputs, inputs), in the precision of the products"""
    bias: torch.Tensor | None
    scale: float = 0.0


def _precision(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.dtype, torch.dtype]:
    """The precision of the numbers and of their products: autocast's, else the weight's."""
    kind = x.device.type
    numbers = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    return numbers, multiplied_in(numbers, kind)


class FrozenProducts:
    """A linear layer without an adapter; its weights are cast once."""

    def __init__(self, module: Any, casts: Casts) -> None:
        self.module, self.casts = module, casts
        self.plain: Callable[..., torch.Tensor] = module.forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self.module.weight, self.module.bias
        numbers, multiplied = _precision(x, weight)
        frozen = not weight.requires_grad and (bias is None or not bias.requires_grad)
        if not frozen or numbers == multiplied == weight.dtype:
            return self.plain(x)  # nothing is cast here
        operand = Operand(_laid_out(self.module, self.casts.of(weight, numbers, multiplied)), bias)
        return _Products.apply(x, None, (operand,), (numbers, multiplied))[0]


class LoraProducts:
    """PEFT's linear layer with one plain adapter."""

    def __init__(self, module: Any, casts: Casts) -> None:
        self.module, self.casts = module, casts
        self.plain: Callable[..., torch.Tensor] = module.forward
        self.group: Group | None = None

    @property
    def name(self) -> str | None:
        """The adapter, if there is just one and nothing is special about it now."""
        module = self.module
        names = module.active_adapters
        if module.disable_adapters or module.merged or len(names) != 1:
            return None
        name: str = names[0]
        if name not in module.lora_A or name in module.lora_variant or module.lora_bias[name]:
            return None
        base = module.get_base_layer()
        inner = (base, module.lora_A[name], module.lora_B[name])
        hooked = any(part._forward_hooks or part._forward_pre_hooks for part in inner)
        trained = base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad)
        return None if hooked or trained else name

    def drops(self, name: str) -> bool:
        """Whether the adapter's input is dropped out now, which is drawn for each layer anew."""
        dropout = self.module.lora_dropout[name]
        return not isinstance(dropout, nn.Identity) and self.module.training

    def operand(self, name: str, precision: tuple[torch.dtype, torch.dtype]) -> Operand:
        base = self.module.get_base_layer()
        weight = _laid_out(base, self.casts.of(base.weight, *precision))
        return Operand(weight, base.bias, self.module.scaling[name])

    def matrices(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return self.module.lora_A[name].weight, self.module.lora_B[name].weight

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        name = self.name
        if name is None or args or kwargs:
            return self.plain(x, *args, **kwargs)
        if self.drops(name):
            # As in PEFT it is dropped from what the adapter is multiplied with: float32 beside a half-precision base.
            dropped = self.module.lora_dropout[name](self.module._cast_input_dtype(x, self.matrices(name)[0].dtype))
            return self.alone(x, dropped, name)
        if self.group is None:
            return self.alone(x, None, name)
        return self.group.output(self, x, name)

    def alone(self, x: torch.Tensor, dropped: torch.Tensor | None, name: str) -> torch.Tensor:
        precision = _precision(x, self.module.get_base_layer().weight)
        matrices = self.matrices(name)
        return _Products.apply(x, dropped, (self.operand(name, precision),), precision, *matrices)[0]


@dataclass(eq=False)
class Group:
    """Layers that are given the same tensor, one after another: the first computes for all."""

    layers: Sequence[LoraProducts]
    _x: torch.Tensor | None = None
    _outputs: dict[int, torch.Tensor] = field(default_factory=dict)
    """Of the layers that have not been called yet, by their identity."""

    def __post_init__(self) -> None:
        for layer in self.layers:
            layer.group = self

    def output(self, layer: LoraProducts, x: torch.Tensor, name: str) -> torch.Tensor:
        """Return what a layer makes of x, (..., inputs)."""
        if layer is self.layers[0]:
            self._compute(x, name)
        if self._x is not x or id(layer) not in self._outputs:
            return layer.alone(x, None, name)
        output = self._outputs.pop(id(layer))
        if not self._outputs:
            self._x = None
        return output

    def _compute(self, x: torch.Tensor, name: str) -> None:
        self._x, self._outputs = None, {}
        if any(layer.name != name or layer.drops(name) for layer in self.layers):
            return
        bases = [layer.module.get_base_layer().weight for layer in self.layers]
        precision = _precision(x, bases[0])
        if any(_precision(x, base) != precision for base in bases):
            return
        operands = tuple(layer.operand(name, precision) for layer in self.layers)
        matrices = [matrix for layer in self.layers for matrix in layer.matrices(name)]
        outputs = _Products.apply(x, None, operands, precision, *matrices)
        self._x = x
        self._outputs = {id(layer): output for layer, output in zip(self.layers, outputs, strict=True)}


class _Products(torch.autograd.Function):
    """x W + b + s (z A) B of several layers, where z is x or what dropout left of it.

    Gradients flow to x, z, A and B. The matrices A and B of all layers follow one another.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        z: torch.Tensor | None,
        layers: tuple[Operand, ...],
        precision: tuple[torch.dtype, torch.dtype],
        *matrices: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        numbers, multiplied = precision

        def cast(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(numbers).to(multiplied)

        with torch.autocast(x.device.type, enabled=False):
            flat = x.reshape(-1, x.shape[-1]).to(numbers)
            inputs = flat.to(multiplied)
            given = flat if z is None else z.reshape(-1, z.shape[-1]).to(numbers)
            outputs = []
            for layer in layers:
                out = inputs @ layer.weight.T
                outputs.append(out if layer.bias is None else out.add_(layer.bias.to(multiplied)))
            if matrices:
                a = cast(torch.cat(matrices[::2]) if len(layers) > 1 else matrices[0])
                low = (inputs if z is None else given.to(multiplied)) @ a.T
                ranks = [matrix.shape[0] for matrix in matrices[::2]]
                for out, layer, part, b in zip(outputs, layers, low.split(ranks, 1), matrices[1::2], strict=True):
                    out.addmm_(part, cast(b).T, alpha=layer.scale)
                ctx.save_for_backward(given, low, *matrices)
        ctx.layers, ctx.precision, ctx.dropped = layers, precision, z is not None
        ctx.shape, ctx.dtypes = x.shape, (x.dtype, None if z is None else z.dtype)
        ctx.set_materialize_grads(False)
        return tuple(out.to(numbers).view(*x.shape[:-1], out.shape[-1]) for out in outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[Any, ...]:
        numbers, multiplied = ctx.precision
        for_x, for_z = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        saved = ctx.saved_tensors
        matrices = saved[2:]
        of_x = of_z = None
        of_matrices: list[torch.Tensor | None] = [None] * len(matrices)
        device = ctx.layers[0].weight.device.type
        with torch.autocast(device, enabled=False):
            flat = [None if g is None else g.reshape(-1, g.shape[-1]).to(multiplied) for g in gradients]
            if for_x:
                for layer, above in zip(ctx.layers, flat, strict=True):
                    if above is not None:
                        of_x = above @ layer.weight if of_x is None else of_x.addmm_(above, layer.weight)
            if matrices:
                given, low = saved[:2]
                ranks = [matrix.shape[0] for matrix in matrices[::2]]
                below = []
                for n, (layer, above, part) in enumerate(zip(ctx.layers, flat, low.split(ranks, 1), strict=True)):
                    if above is None:
                        below.append(torch.zeros_like(part))
                        continue
                    b = matrices[2 * n + 1]
                    below.append(above @ (b.to(numbers).to(multiplied) * layer.scale))
                    of_matrices[2 * n + 1] = (above.T @ part).mul_(layer.scale).to(b.dtype)
                lower = torch.cat(below, 1) if len(below) > 1 else below[0]
                a = torch.cat(matrices[::2]) if len(below) > 1 else matrices[0]
                of_a = (lower.T @ given.to(multiplied)).to(a.dtype)
                of_matrices[::2] = of_a.split(ranks)
                a = a.to(numbers).to(multiplied)
                if ctx.dropped:
                    of_z = lower @ a if for_z else None
                elif for_x:
                    of_x = lower @ a if of_x is None else of_x.addmm_(lower, a)
        return (
            None if of_x is None else of_x.to(ctx.dtypes[0]).view(ctx.shape),
            None if of_z is None else of_z.to(ctx.dtypes[1]).view(ctx.shape),
            None,
            None,
            *of_matrices,
        )


def _is_lora(module: Any) -> bool:
    from peft.tuners.lora import Linear

    return type(module) is Linear and type(module.get_base_layer()) in (nn.Linear, Conv1D)


def _laid_out(base: Any, weight: torch.Tensor) -> torch.Tensor:
    """A weight as (outputs, inputs)."""
    return weight.T if isinstance(base, Conv1D) else weight


@torch.no_grad()
def _given_the_same(model: Any, modules: Sequence[nn.Module]) -> list[list[Any]]:
    """Groups of at least two modules that are given the same tensor one after another, found by calling the model."""
    groups: list[list[Any]] = []
    last: list[torch.Tensor | None] = [None]
    calls: dict[nn.Module, int] = {}

    def note(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        calls[module] = calls.get(module, 0) + 1
        if args[0] is last[0]:
            groups[-1].append(module)
        else:
            groups.append([module])
        last[0] = args[0]

    hooks = [module.register_forward_pre_hook(note) for module in modules]
    try:
        model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return [group for group in groups if len(group) > 1 and all(calls[module] == 1 for module in group)]
