"""Templates that turn a row into text: Jinja in a sandbox, strict about names, the same on every run."""

import ast
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from continual.problems import Key, did_you_mean

Row = Mapping[str, Any]


class WordingError(ValueError):
    """A template that does not fit its rows. Who knows the file turns it into a `ContinualError`."""

    def __init__(self, message: str, *keys: Key) -> None:
        super().__init__(message)
        self.keys = keys
        """Where in the task file the template stands."""


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    # These two draw from the global random state: the same row would give another prompt at each run.
    del environment.filters["random"]
    del environment.globals["lipsum"]
    # lm-evaluation-harness has this filter too.
    environment.filters["regex_replace"] = lambda text, pattern, to, count=0: re.sub(pattern, to, text, count=count)
    return environment


_ENVIRONMENT = _environment()


@cache
def _check(source: str) -> None:
    """Raise TemplateSyntaxError for a mistake. That is half of compiling; the rest waits for the first row."""
    _ENVIRONMENT.compile(source, raw=True)


_compiled = cache(_ENVIRONMENT.from_string)


class Wording:
    """One template, compiled once.

    As in lm-evaluation-harness, a text that is the name of a column stands for that column.
    """

    def __init__(self, source: str, *keys: Key) -> None:
        self.source = source
        self.keys = keys
        self._is_template = "{{" in source or "{%" in source
        if self._is_template:
            try:
                _check(source)
            except TemplateSyntaxError as error:
                where = f" in line {error.lineno} of the template" if "\n" in source else ""
                raise self.error(f"{error.message}{where}") from None

    def value(self, row: Row) -> Any:
        """The column itself where the source is its name, else the rendered text.

        Raises:
            WordingError: a name that the row does not have, an empty column, or a template that the sandbox
                refuses or that fails on this row.
        """
        if self.source in row:
            if row[self.source] is None:
                raise self.error(f"the column '{self.source}' is empty")
            return row[self.source]
        if not self._is_template:
            raise self.error(f"there is no column '{self.source}'{_columns(self.source, row)}")
        try:
            return _compiled(self.source).render(row)
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            missing = re.fullmatch(r"'(\w+)' is undefined", str(error))
            hint = _columns(missing[1], row) if missing else ""
            raise self.error(f"{error}{hint}") from None

    @property
    def fixed(self) -> tuple[str, str]:
        """What the template says of every row, before and behind all that changes."""
        if not self._is_template:
            return "", ""
        pieces = [(kind, text) for _, kind, text in _ENVIRONMENT.lex(self.source)]
        before, after = ("" if kind != "data" else text for kind, text in (pieces[0], pieces[-1]))
        return before.lstrip(), after.rstrip()

    def error(self, message: str) -> WordingError:
        """A mistake of this template."""
        return WordingError(message, *self.keys)

    def text(self, row: Row) -> str:
        """The value as text."""
        return str(self.value(row))

    def texts(self, row: Row) -> tuple[str, ...]:
        """The value as a list of texts: a list column, or a template that renders one, e.g. ``['a', 'b']``.

        Raises:
            WordingError: as `value`, or the value is not a list of texts.
        """
        value = self.value(row)
        if isinstance(value, str):
            try:
                value = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                raise self.error(f"should give a list of texts, gives {value!r}") from None
        if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
            raise self.error(f"should give a list of texts, gives {value!r}")
        return tuple(value)


def _columns(name: str, row: Row) -> str:
    return f"; the columns are: {', '.join(row)}{did_you_mean(name, row)}"
