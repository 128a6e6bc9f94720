"""The highest memory use of a stretch of work: of the GPU where there is one, else of the process."""

import os
import resource
from pathlib import Path


def reset_peak() -> None:
    """Forget the highest use so far (GPUs and Linux; elsewhere it stays that of the whole process)."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """The highest use since `reset_peak`, in bytes."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    if os.access("/proc/self/status", os.R_OK):
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
