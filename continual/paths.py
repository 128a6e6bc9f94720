"""Where the shipped tasks and recipes are: inside the wheel, or at the top of a checkout."""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def shipped(kind: str) -> Path:
    """The folder of shipped ``"tasks"`` or ``"recipes"``."""
    inside = _PACKAGE / kind
    return inside if inside.is_dir() else _PACKAGE.parent / kind


def builtin_model(name: str) -> Path:
    """The folder of an embedded model, e.g. ``builtin_model("tinyworld")``."""
    return _PACKAGE / "builtin" / name
