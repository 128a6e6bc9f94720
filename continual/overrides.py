"""``key=value`` on the command line, laid over the data of a recipe."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from continual.errors import ContinualError
from continual.problems import did_you_mean
from continual.yamlfile import parse_value


def parse(texts: Sequence[str]) -> dict[str, Any]:
    """The overrides by dotted key; ``seed=3`` is short for ``seeds=[3]``.

    Only the first ``=`` parts key and value, so that a value may hold one itself.

    Raises:
        ContinualError: a text has no ``=``, a key twice, or a value that is not YAML.
    """
    overrides: dict[str, Any] = {}
    wrong: list[str] = []
    for text in texts:
        key, equals, written = text.partition("=")
        if not equals or not all(key.split(".")):
            wrong.append(f"override: {text}: should be key=value, such as training.learning_rate=1e-4")
            continue
        try:
            value = parse_value(written)
        except yaml.YAMLError as error:
            wrong.append(f"override: {key}: not valid YAML: {str(error).splitlines()[0]}")
            continue
        if key == "seed":
            key, value = "seeds", [value]
        if key in overrides:
            wrong.append(f"override: {key}: is given twice")
        overrides[key] = value
    if wrong:
        raise ContinualError(*wrong)
    return overrides


def apply(data: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the data with the overrides set; groups that are missing on the way are made.

    Raises:
        ContinualError: a key leads through something that holds no keys, or to an arm that does not exist.
    """
    result = {key: _copy(value) for key, value in data.items()}
    wrong: list[str] = []
    for key, value in overrides.items():
        message = _set(result, key.split("."), value)
        if message:
            wrong.append(f"override: {key}: {message}")
    if wrong:
        raise ContinualError(*wrong)
    return result


def short_hash(values: Mapping[str, Any]) -> str:
    """Eight hex digits that stand for the values, whatever their order."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def concerned(sweep: Mapping[str, Any], arm: str, teach: str) -> list[str]:
    """The keys of a sweep that concern an arm: not those of other arms, and orders only what is taught in sequence."""
    own = [key for key in sweep if key.startswith(f"arms.{arm}.") or not key.startswith("arms.")]
    return [key for key in own if key != "curriculum" or teach == "sequential"]


def run_name(seed: int, settings: Mapping[str, Any]) -> str:
    """The folder of a run under its arm's: ``seed0``, or ``seed0-<hash>`` at a point of a sweep."""
    return f"seed{seed}" + (f"-{short_hash(settings)}" if settings else "")


def _set(data: dict[str, Any], keys: list[str], value: Any) -> str | None:
    """Set a nested key in place; what is wrong, if it cannot be."""
    here: Any = data
    for depth, key in enumerate(keys[:-1]):
        if isinstance(here, list):
            if not (key.isdigit() and int(key) < len(here)):
                return f"{'.'.join(keys[:depth])} is a list of {len(here)}; its entries are numbered from 0"
            here = here[int(key)]
        elif keys[:depth] == ["arms"] and key not in here:
            return f"there is no arm '{key}'{did_you_mean(key, here)}"
        else:
            # A group that is null or left out is made, so that adapter.r=8 works without an adapter.
            if here.get(key) is None:
                here[key] = {}
            here = here[key]
        if not isinstance(here, dict | list):
            return f"{'.'.join(keys[: depth + 1])} is a single value and has no keys below it"
    last = keys[-1]
    if isinstance(here, list):
        if not (last.isdigit() and int(last) < len(here)):
            return f"{'.'.join(keys[:-1])} is a list of {len(here)}; its entries are numbered from 0"
        here[int(last)] = value
    else:
        here[last] = value
    return None


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_copy(one) for one in value]
    return value
