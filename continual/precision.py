"""What the device computes in: whether it has bfloat16 arithmetic, and products where it has not."""

from __future__ import annotations

import platform
from functools import cache

import torch


@cache
def has_bfloat16(device: str) -> bool:
    """Return whether a type of device ("cpu", "cuda") multiplies in bfloat16.

    An x86 processor does with AVX512-BF16 or AMX. Without, torch goes through scalar loops that
    take up to a hundred times as long as products in float32. Of other processors torch does not
    tell, and they count as having none.
    """
    if device != "cpu":
        return True
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return x86 and bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def multiplied_in(dtype: torch.dtype, device: str) -> torch.dtype:
    """Return in which precision numbers of `dtype` are multiplied: float32 stands in for bfloat16.

    The product of two bfloat16 numbers is exact in float32, so that only sums differ, for the better.
    """
    return torch.float32 if dtype == torch.bfloat16 and not has_bfloat16(device) else dtype
