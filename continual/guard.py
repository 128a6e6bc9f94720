"""Make a torchvision whose compiled part cannot load importable, before transformers, peft or Avalanche ask
for it.

avalanche-lib pulls in torchvision; PyPI's build of it is linked against CUDA. Beside a CPU-only torch its
library does not load, `import torchvision` dies with "operator torchvision::nms does not exist", and with it
every model of transformers. Declaring the two operators for which torchvision registers fakes is enough;
calling them still raises torchvision's own honest error. Known upstream as pytorch/vision#9077 and
pytorch/pytorch#122494.
"""

import importlib.util
import warnings
from functools import cache
from pathlib import Path

from continual.deferred import defer

# The declarations live as long as this object does.
_DECLARED: list[object] = []


NOISE = (
    "no QP solver found",  # Avalanche's GEM alone needs one
    "No loggers specified, metrics will not be logged",  # the run directory is the log
    "`is_gradient_checkpointing` is deprecated",  # peft asks transformers by the old name
    "fan_in_fan_out is set to False but the target module is `Conv1D`",  # peft mends it itself
)
"""Warnings of the libraries that no user of this package can do anything about."""


@cache
def guard() -> str:
    """Run before the first import of transformers, peft or Avalanche; costs 2 ms, and nothing the second
    time.

    Returns:
        ``"absent"`` (no torchvision), ``"native"`` (its library loads) or ``"declared"``.
    """
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)
    defer()
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return "absent"

    import torch

    try:
        for library in Path(spec.origin).parent.glob("_C*.so"):
            torch.ops.load_library(str(library))
        torch.ops.torchvision.nms  # noqa: B018  (raises AttributeError where the library registered nothing)
        return "native"
    except (OSError, AttributeError):
        fragment = torch.library.Library("torchvision", "FRAGMENT")  # noqa: TOR901
        for operator in ("nms", "qnms"):
            fragment.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _DECLARED.append(fragment)
        return "declared"
