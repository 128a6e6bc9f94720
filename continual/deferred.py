"""Put off what Avalanche imports at its start for a few metrics and loggers, until one of them is used.

matplotlib, torchmetrics (which pulls in half of scipy) and wandb take 3 of the 8 seconds until a run can begin,
and no run needs them. While `import avalanche` runs, stand-ins lie in their places; Avalanche keeps those,
and each turns to the real library when it is touched. Everybody else imports the real ones.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import version
from types import ModuleType
from typing import Any

KNOWN = "0.6."
"""Versions of avalanche-lib whose imports were looked at; others import what they like."""

MODULES = (
    "matplotlib",
    "matplotlib.axes",
    "matplotlib.figure",
    "matplotlib.pyplot",
    "torchmetrics",
    "torchmetrics.functional",
    "wandb",
)


class Name:
    """Stands for a class or function of a library: calls, attributes and `isinstance` reach the real one."""

    def __init__(self, module: str, name: str) -> None:
        self._place = (module, name)

    def _real(self) -> Any:
        module, name = self._place
        try:
            return getattr(importlib.import_module(module), name)
        except AttributeError:
            return importlib.import_module(f"{module}.{name}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._real()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what typing and copy ask of everything they meet
            raise AttributeError(name)
        return getattr(self._real(), name)

    def __instancecheck__(self, thing: Any) -> bool:
        # Nothing can be of a class whose module nobody has imported.
        return self._place[0] in sys.modules and isinstance(thing, self._real())


class StandIn(ModuleType):
    """Lies in `sys.modules` for a library that is installed."""

    def __init__(self, name: str, spec: ModuleSpec) -> None:
        super().__init__(name)
        # Libraries that ask whether another is there look at its spec.
        self.__spec__, self.__path__ = spec, []

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is not self:  # Avalanche is there, and now wants something of it
            return getattr(importlib.import_module(self.__name__), name)
        if name.startswith("__"):
            raise AttributeError(name)
        return Name(self.__name__, name)


class _Loader(Loader):
    """Avalanche's own loader, with the stand-ins around it."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.loader
        with _standing_in():
            self.loader.exec_module(module)


class _Finder(MetaPathFinder):
    """Notices the first import of Avalanche."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "avalanche":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


@contextmanager
def _standing_in() -> Iterator[None]:
    """Stand-ins for those of `MODULES` that are installed and not imported yet."""
    absent = {name for name in MODULES if name.partition(".")[0] not in sys.modules}
    specs = {root: importlib.util.find_spec(root) for root in {name.partition(".")[0] for name in absent}}
    lent = {}
    for name in absent:
        spec = specs[name.partition(".")[0]]
        if spec is not None:
            lent[name] = sys.modules[name] = StandIn(name, spec)
    try:
        yield
    finally:
        for name, standin in lent.items():
            if sys.modules.get(name) is standin:
                del sys.modules[name]


def defer() -> None:
    """Have Avalanche's first import, if it is still to come, leave the slow libraries for later."""
    if "avalanche" in sys.modules or importlib.util.find_spec("avalanche") is None:
        return
    if version("avalanche-lib").startswith(KNOWN):
        sys.meta_path.insert(0, _Finder())
