"""What is known of a task whose data is gone: enough to rehearse it, and to see whether it is forgotten."""

from pydantic import Field

from continual.settings_base import Settings


class Remembered(Settings):
    """Written into the manifest of every run, for the day on which the data is gone."""

    rows: int = Field(ge=1)
    """Training rows that there were."""

    labels: tuple[str, ...]
    """The label set, where all rows shared one."""

    delimiter: str
    """What stands before an answer in the plain form."""

    before: str
    """The words with which every prompt began."""

    after: str
    """The words with which every prompt ended."""

    metric: str
    """How answers are scored."""

    multiple_choice: bool
    """Whether they are scored by the likelihood of each label."""

    max_gen_toks: int = Field(ge=1)
    """The most tokens of an answer."""

    until: tuple[str, ...]
    """Texts that end an answer."""
