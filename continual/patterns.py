"""PEFT's patterns of module names, matched so that a hostile one costs a second and no more."""

from __future__ import annotations

import time
from collections.abc import Sequence

import regex

from continual.errors import ContinualError

SECONDS = 1.0
"""The most that all matches of some patterns may take: millions of honest ones."""


class Patterns:
    """Patterns as `rank_pattern` and `alpha_pattern` of `peft.LoraConfig` have them.

    Args:
        where: they stand, for errors.
        patterns: regular expressions of the end of a module's name.

    Raises:
        ContinualError: one is no regular expression.
    """

    def __init__(self, where: str, patterns: Sequence[str]) -> None:
        self.where, self._left = where, SECONDS
        self._compiled = []
        for pattern in patterns:
            try:
                # Whole segments, from a dot on: as `peft.utils.other.get_pattern_key` asks.
                self._compiled.append((pattern, regex.compile(rf"(.*\.)?({pattern})$")))
            except regex.error as error:
                raise ContinualError(f"{where}: '{pattern}' is no regular expression ({error})") from error

    def first(self, module: str) -> str | None:
        """The first pattern that fits a module's name.

        Raises:
            ContinualError: all matches together took too long.
        """
        for pattern, compiled in self._compiled:
            begun = time.perf_counter()
            try:
                found = compiled.match(module, timeout=max(self._left, 1e-3))
            except TimeoutError as error:
                raise ContinualError(
                    f"{self.where}: '{pattern[:60]}' takes too long to match: a name of modules is expected"
                ) from error
            self._left -= time.perf_counter() - begun
            if found:
                return pattern
        return None
