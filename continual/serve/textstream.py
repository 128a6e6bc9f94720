"""The text of an answer as its tokens come: no half characters, and nothing of a stop text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

BROKEN = "\ufffd"
"""What stands for a character of which some bytes are missing."""


class TextStream:
    """Turns the ids of one answer into text, bit by bit.

    All bits together are the text of all ids, up to the first stop text.

    Args:
        decode: ids to text, special tokens left out.
        stop: texts that end the answer; they are no part of it.
        strip: leave out the blanks around the answer.
        opening: a text that is left out where the answer begins with it; only where it is stripped.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        stop: Sequence[str] = (),
        strip: bool = False,
        opening: str = "",
    ) -> None:
        self._decode, self._stop, self._strip = decode, tuple(stop), strip
        self._opening, self._opened = opening.strip(), ""
        self._ids: list[int] = []
        # Decoded is from `_from` on, which lies one bit before `_read`: a word may begin otherwise than a text does.
        self._from = self._read = 0
        self._held = ""
        self._blanks, self._begun = "", False
        self.starts: list[int] = []
        """Where the text of each token begins, in characters, before anything is stripped."""
        self.given = 0
        """How many characters are certain."""
        self.stopped = False
        """Whether a stop text was met; nothing comes after it."""

    def add(self, id: int) -> str:
        """The text that is certain now and was not before."""
        self.starts.append(self.given + len(self._held))
        self._ids.append(id)
        before, now = self._windows()
        if len(now) <= len(before) or now.endswith(BROKEN):
            return ""
        self._from, self._read = self._read, len(self._ids)
        return self._certain(now[len(before) :], False)

    def end(self) -> str:
        """The rest, when no more tokens come."""
        before, now = self._windows()
        return self._certain(now[len(before) :], True)

    def _windows(self) -> tuple[str, str]:
        return self._decode(self._ids[self._from : self._read]), self._decode(self._ids[self._from :])

    def _certain(self, text: str, last: bool) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        found = [place for place in map(text.find, self._stop) if place >= 0]
        if found:
            self.stopped, keep = True, min(found)
        else:
            keep = len(text) if last else len(text) - self._begun_stop(text)
        text, self._held = text[:keep], "" if self.stopped else text[keep:]
        self.given += len(text)
        return self._stripped(self._words(text, last)) if self._strip else text

    def _begun_stop(self, text: str) -> int:
        """How many characters at the end may be the beginning of a stop text."""
        longest = max(map(len, self._stop), default=1) - 1
        return next(
            (n for n in range(min(longest, len(text)), 0, -1) if any(s.startswith(text[-n:]) for s in self._stop)), 0
        )

    def _words(self, text: str, last: bool) -> str:
        """The text without the opening, once it is certain whether that is there."""
        if not self._opening:
            return text
        text = (self._opened + text).lstrip()
        if len(text) < len(self._opening) and self._opening.startswith(text) and not last:
            self._opened = text
            return ""
        text, self._opening = text.removeprefix(self._opening), ""
        return text

    def _stripped(self, text: str) -> str:
        if not self._begun:
            text = text.lstrip()
        self._begun = self._begun or bool(text)
        text = self._blanks + text
        kept = text.rstrip()
        self._blanks = text[len(kept) :]
        return kept
