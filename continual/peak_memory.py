"""The highest memory use of a stretch of work: of the GPU where there is one, else of the process."""

import resource
from pathlib import Path


def reset_peak() -> None:
    """Forget the highest use so far (GPUs and Linux; elsewhere it stays that of the whole process)."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """The highest use since `reset_peak`, in bytes."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    if Path("/proc/self/clear_refs").exists():
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
