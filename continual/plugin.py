"""What our own Avalanche plugins are: hooks that read the loss of a step, but not its logits; methods with a state."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from continual.guard import guard

guard()

from avalanche.core import SupervisedPlugin  # noqa: E402


class LossPlugin(SupervisedPlugin):
    """A plugin that promises never to read `strategy.mb_output`.

    Where all active plugins promise it, the logits of a step need never exist at once. Of other plugins the loop
    knows nothing, and keeps the logits for them.
    """


@runtime_checkable
class Stateful(Protocol):
    """What can be stopped at any step and go on: its state is tensors and plain values by name (see `states`)."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class MethodPlugin(SupervisedPlugin):
    """A way to remember, as a recipe's `method` or `rehearsal` names it.

    A method that carries nothing from step to step or task to task keeps both functions of `Stateful` as they are.
    """

    generated_tokens: int = 0
    """Tokens generated for the current task."""

    @property
    def told(self) -> list[dict[str, Any]]:
        """What was rehearsed for the current task, one `methods.rehearsal.summary` for each earlier task."""
        return []

    @property
    def kept(self) -> list[dict[str, Any]]:
        """Real rows of each earlier task that lay in a memory for the current one: `task`, `rows`, `bytes`."""
        return []

    def skip(self, number: int) -> None:
        """A task was taken back: the model does not know it, though its place in the order stays.

        Args:
            number: of the task in the order taught, from 0.
        """

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""
