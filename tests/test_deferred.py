"""What Avalanche imports and nobody needs comes when it is used, and is then the real thing."""

import subprocess
import sys

PROGRAM = """
import sys
from continual.guard import guard
guard()
import avalanche.training
late = [name for name in ("matplotlib", "torchmetrics", "wandb") if name in sys.modules]
assert not late, late

import torch
from avalanche.evaluation.metrics import StreamConfusionMatrix, TopkAccuracy
from avalanche.logging import tensorboard_logger
assert not isinstance(1.0, tensorboard_logger.Figure) and "matplotlib" not in sys.modules

top = TopkAccuracy(1)  # the stand-ins that Avalanche holds
top.update(torch.tensor([[0.1, 0.9]]), torch.tensor([1]), 0)
assert list(top.result().values()) == [1.0]

from matplotlib.figure import Figure  # anybody else's import
import torchmetrics.functional
assert isinstance(Figure(), tensorboard_logger.Figure)
assert not isinstance(1.0, tensorboard_logger.Figure)
assert type(Figure) is type and type(torchmetrics.functional.accuracy).__name__ == "function"
"""


def test_avalanche_leaves_slow_libraries_for_later() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
