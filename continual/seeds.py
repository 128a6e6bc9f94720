"""Every random stream comes from one seed and the name of what it is for, never from global state."""

import hashlib


def derive(*parts: str | int) -> int:
    """A 63-bit seed from its parts, e.g. ``derive(seed, arm, task, epoch, "order")``.

    The same parts give the same number on every machine and Python version, which `hash` would not.
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
