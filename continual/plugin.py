"""What our own Avalanche plugins are: hooks that read the loss of a step, but not its logits."""

from continual.guard import guard

guard()

from avalanche.core import SupervisedPlugin  # noqa: E402


class LossPlugin(SupervisedPlugin):
    """A plugin that promises never to read `strategy.mb_output`.

    Where all active plugins promise it, the logits of a step need never exist at once. Of other plugins the loop
    knows nothing, and keeps the logits for them.
    """
