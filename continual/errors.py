"""The one kind of error a user can mend. Everything else is a bug and keeps its traceback."""


class ContinualError(Exception):
    """A mistake that the user can mend: shown as plain lines, without a traceback, exit code 2.

    Each line stands for one mistake and reads ``file:line: key: what is wrong; did you mean …``
    where the place is known. All mistakes of a file travel in one error.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines
