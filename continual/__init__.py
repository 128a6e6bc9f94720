"""Teach a language model task after task without forgetting, and show what was forgotten."""

__version__ = "0.1.0"
