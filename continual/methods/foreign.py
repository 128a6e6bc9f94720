"""A plugin of Avalanche's, or of one's own, by the name of its class."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from continual.errors import ContinualError
from continual.guard import guard


def foreign(name: str, arguments: Mapping[str, Any]) -> Any:
    """Make a plugin.

    Args:
        name: ``module:Class``; a module in the folder where the command is run, or in that of the recipe, is found.
        arguments: keyword arguments of the class.

    Raises:
        ContinualError: there is no such class, or it does not take these arguments.
    """
    guard()
    module, _, cls = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(import_module(module), cls)
    except (ImportError, AttributeError) as error:
        raise ContinualError(f"plugin.class: there is no '{name}' ({error})") from error
    try:
        return found(**arguments)
    except TypeError as error:
        raise ContinualError(f"plugin.args: {name} does not take them ({error})") from error
