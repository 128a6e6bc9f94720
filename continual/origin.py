"""Where a base model comes from, and how it is loaded: the same wherever what was taught on it is used again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from continual.errors import ContinualError
from continual.paths import builtin_model


@dataclass(frozen=True)
class Origin:
    """A model's folder, GGUF file or Hub name, and what decides which weights come of it."""

    name: str
    """As a recipe's `model_name_or_path`."""
    revision: str | None = None
    """Branch, tag or commit of a name on the Hub; None: its main branch."""
    quantization: Mapping[str, Any] | None = None
    """Arguments of `transformers.BitsAndBytesConfig`; None: as stored."""
    attn_implementation: str | None = None
    """None: what transformers takes."""
    trust_remote_code: bool = False

    def whole(self, folder: Path) -> Origin:
        """A model that was taught whole, and saved in a folder."""
        return Origin(str(folder), None, None, self.attn_implementation, self.trust_remote_code)

    @property
    def place(self) -> str:
        """The folder, file or Hub name, see `resolve`."""
        return resolve(self.name)

    @property
    def identity(self) -> dict[str, Any]:
        """What tells it from other bases, as manifests keep it; what is not given is left out."""
        told = {"name": self.name, "revision": self.revision, "quantization": self.quantization}
        return {key: value for key, value in told.items() if value is not None}

    @property
    def files(self) -> tuple[str, dict[str, Any]]:
        """What every `from_pretrained` of transformers takes: folder or Hub name, and arguments.

        Raises:
            ContinualError: a folder has no single GGUF file and no configuration, or a revision is asked of one.
        """
        arguments: dict[str, Any] = {"trust_remote_code": self.trust_remote_code}
        path = Path(self.place)
        if self.revision is not None:
            if path.exists():
                raise ContinualError(f"revision: is of a name on the Hub, and '{self.name}' is a folder or file here")
            arguments["revision"] = self.revision
        if path.is_file():
            return str(path.parent), {**arguments, "gguf_file": path.name}
        if path.is_dir() and not (path / "config.json").is_file() and (files := sorted(path.glob("*.gguf"))):
            if len(files) > 1:
                names = ", ".join(file.name for file in files)
                raise ContinualError(f"model_name_or_path: '{self.name}' holds several GGUF files; name one: {names}")
            return str(path), {**arguments, "gguf_file": files[0].name}
        return self.place, arguments


def resolve(name: str) -> str:
    """A model's folder, GGUF file or Hub name; ``builtin:tinyworld`` is the one that is shipped.

    What lies here is given from the root: an adapter names its base, and is loaded from anywhere.

    Raises:
        ContinualError: there is no such embedded model, or a file is none of GGUF.
    """
    path = Path(name)
    if not name.startswith("builtin:"):
        if path.is_file() and path.suffix != ".gguf":
            raise ContinualError(
                f"model_name_or_path: '{name}' is a file; name a folder, or a file that ends in .gguf"
            )
        return str(path.resolve()) if path.exists() else name
    folder = builtin_model(name.removeprefix("builtin:"))
    if not folder.is_dir():
        known = ", ".join(f"builtin:{p.name}" for p in sorted(folder.parent.glob("*")) if (p / "config.json").exists())
        raise ContinualError(f"model_name_or_path: there is no embedded model {name!r}; there is {known}")
    return str(folder)
