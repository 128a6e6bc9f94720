"""An adapter or a model to the Hugging Face Hub: the files that others load, card and manifest; nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from continual import lineage
from continual.card import is_hub_name
from continual.errors import ContinualError


@dataclass(frozen=True)
class Parcel:
    """What would be uploaded."""

    folder: Path
    repo: str
    files: list[Path]

    @property
    def lines(self) -> list[str]:
        """For people: the repository, each file with its size, and what to mind."""
        sizes = [(path.name, path.stat().st_size) for path in self.files]
        lines = [f"{self.folder} -> {self.repo}", *(f"  {name}  {size:,} bytes" for name, size in sizes)]
        base = lineage.manifest_of(self.folder)["base"]
        if base and not is_hub_name(base) and (self.folder / "adapter_config.json").is_file():
            lines.append(
                f"mind: its base, {base}, is not on the Hub, and others need it (or continual export --to merged)"
            )
        return lines


def pack(folder: Path, repo: str) -> Parcel:
    """Choose the files; the state of methods and whatever else lies in the folder stay here.

    Raises:
        ContinualError: `repo` is no ``owner/name``, such as the name of a folder.
    """
    if repo.count("/") != 1 or not is_hub_name(repo):
        raise ContinualError(f"REPO: '{repo}' is no repository; it reads owner/name")
    told = [path for path in (folder / lineage.CARD, folder / lineage.FILE) if path.is_file()]
    return Parcel(folder, repo, [*told, *lineage.files_of(folder)])


def push(parcel: Parcel, *, private: bool, endpoint: str | None = None) -> str:
    """Upload; gives the address of the commit.

    Args:
        private: whether a repository that is made now is private.
        endpoint: the Hub's address, if not `HF_ENDPOINT`.

    Raises:
        ContinualError: there is no token, or the Hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    # The base of every error of its HTTP library, whichever that is.
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    if get_token() is None:
        raise ContinualError("there is no token for the Hub: run hf auth login, or set HF_TOKEN (with write access)")
    api = HfApi(endpoint=endpoint)
    operations = [CommitOperationAdd(path.name, str(path)) for path in parcel.files]
    try:
        api.create_repo(parcel.repo, private=private, exist_ok=True)
        done = api.create_commit(parcel.repo, operations, commit_message=f"Upload {parcel.folder.resolve().name}")
    except (OSError, ValueError, HTTPError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ContinualError(f"{parcel.repo}: the Hub did not take it: {reason.strip()[:300]}") from error
    return str(done.commit_url)
