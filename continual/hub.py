"""Whether a model can be had at all, asked once and quickly."""

from pathlib import Path

from continual.errors import ContinualError


def check(name: str, revision: str | None = None) -> None:
    """See that a model is a folder, cached, or on the Hub.

    Loading it would tell as well, but only after two rounds of retries, 50 seconds without a network.

    Args:
        name: a folder or a Hub name.
        revision: branch, tag or commit on the Hub; None: its main branch.

    Raises:
        ContinualError: it is nowhere; with what was tried and what helps.
    """
    if Path(name).is_dir():
        return
    from huggingface_hub import HfApi, try_to_load_from_cache

    # The base of every error of its HTTP library, whichever that is.
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    try:
        if not isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
            HfApi().model_info(name, revision=revision, timeout=10)
    except (OSError, ValueError, HTTPError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        at = "" if revision is None else f" at revision '{revision}'"
        raise ContinualError(
            f"model_name_or_path: cannot load '{name}'{at}: it is no folder here, not in the Hugging Face cache, "
            f"and the Hub gave: {reason.strip()[:200]}. Without a network, give a local folder, or a model "
            "that is in the cache (then HF_HUB_OFFLINE=1 saves the waiting)"
        ) from error
