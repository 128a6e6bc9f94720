"""Texts that end a continuation, whichever tokens they are written in."""

from __future__ import annotations

from collections.abc import Callable, Sequence


class StopTexts:
    """Notices them as a row is written, reading back only where a new token may be the end of one.

    Args:
        text: ids to text.
    """

    def __init__(self, text: Callable[[Sequence[int]], str]) -> None:
        self.text = text
        self._pieces: dict[int, str] = {}

    def end(self, until: Sequence[str], ids: Sequence[int]) -> bool:
        """Whether ids whose last one is new contain one of some texts."""
        if not until:
            return False
        newest = ids[-1]
        if newest not in self._pieces:
            self._pieces[newest] = self.text([newest])
        piece = self._pieces[newest]
        # A part of a character reads as U+FFFD: it may be the end of anything. So may an empty piece: a tokenizer
        # strips what stands alone.
        if piece.strip() and "\ufffd" not in piece and not any(stop[-1] in piece for stop in until):
            return False
        written = self.text(ids)
        return any(stop in written for stop in until)
