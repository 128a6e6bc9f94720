"""What pydantic says about a mistake, as a key and a sentence that a person can act on."""

import difflib
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeAlias, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from continual.synonyms import keys_for

Key: TypeAlias = str | int


class Problem(NamedTuple):
    """One mistake: the keys that lead to it, and what is wrong there."""

    keys: tuple[Key, ...]
    message: str


def dotted(keys: Iterable[Key]) -> str:
    """Keys as users write them: ``arms.rehearsal.ratio``."""
    return ".".join(str(key) for key in keys)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"``, or nothing where no known name is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def problems_error(problems: Sequence[Problem]) -> PydanticCustomError:
    """What a validator raises to report several mistakes, each at its own key below the validated one."""
    text = "; ".join(f"{dotted(problem.keys)}: {problem.message}" for problem in problems)
    return PydanticCustomError("problems", "{text}", {"text": text, "problems": list(problems)})


def problems_of(error: ValidationError, cls: type[BaseModel], data: Any) -> list[Problem]:
    """Every mistake in a validation error, one per key, with suggestions."""
    found: dict[tuple[Key, ...], list[str]] = {}
    entries = error.errors(include_url=False)
    for entry in entries:
        if entry["type"] == "too_short" and _any_below(entry, entries):
            continue  # it counts only the items that were right
        for problem in _expand(entry, cls, data):
            messages = found.setdefault(problem.keys, [])
            if problem.message not in messages:
                messages.append(problem.message)
    return [Problem(keys, _joined(messages)) for keys, messages in found.items()]


def wrong_arguments(cls: type[BaseModel], arguments: Mapping[str, Any], key: Key) -> list[Problem]:
    """Every mistake in the arguments of something that a recipe names, which stand under `key`."""
    try:
        cls.model_validate(arguments)
    except ValidationError as error:
        return [Problem((key, *problem.keys), problem.message) for problem in problems_of(error, cls, arguments)]
    return []


def model_at(annotation: Any, keys: Sequence[Key]) -> type[BaseModel] | None:
    """The pydantic model that the keys lead to from an annotation; None if they lead to none."""
    here = annotation_at(annotation, keys)
    return next((one for one in _members(here) if _is_model(one)), None)


def annotation_at(annotation: Any, keys: Sequence[Key]) -> Any:
    """The type annotation that the keys lead to; None if they lead nowhere."""
    if not keys:
        return annotation
    for one in _members(annotation):
        below = _below(one, keys[0])
        if below is not None:
            return annotation_at(below, keys[1:])
    return None


def _below(annotation: Any, key: Key) -> Any:
    if _is_model(annotation):
        fields = annotation.model_fields
        # Where a name is a word of Python, `class` say, the field has it as an alias.
        field = fields.get(str(key)) or next((f for f in fields.values() if f.alias == key), None)
        if field is None:
            return None
        return Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return arguments[1]
    if origin in (list, tuple) and isinstance(key, int):
        return arguments[0]
    return None


def _members(annotation: Any) -> list[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _members(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [member for argument in get_args(annotation) for member in _members(argument)]
    return [annotation]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _any_below(entry: ErrorDetails, entries: Sequence[ErrorDetails]) -> bool:
    depth = len(entry["loc"])
    return any(len(other["loc"]) > depth and other["loc"][:depth] == entry["loc"] for other in entries)


def _expand(entry: ErrorDetails, cls: type[BaseModel], data: Any) -> list[Problem]:
    keys = _keys(entry, data)
    if entry["type"] == "problems":
        return [Problem((*keys, *problem.keys), problem.message) for problem in entry["ctx"]["problems"]]
    return [Problem(keys, _message(entry, keys, cls))]


def _keys(entry: ErrorDetails, data: Any) -> tuple[Key, ...]:
    """The location without the names that pydantic adds for members of a union or for dict keys."""
    keys: list[Key] = []
    here: Any = data
    key: Any
    for key in entry["loc"]:
        if (isinstance(here, Mapping) and key in here) or (isinstance(here, list | tuple) and isinstance(key, int)):
            keys.append(key)
            here = here[key]
    if entry["type"] == "missing":
        keys.append(entry["loc"][-1])
    return tuple(keys)


def _message(entry: ErrorDetails, keys: tuple[Key, ...], cls: type[BaseModel]) -> str:
    kind, given = entry["type"], entry["input"]
    if kind == "extra_forbidden":
        return "unknown key" + suggestion(str(keys[-1]), model_at(cls, keys[:-1]), cls)
    if kind == "missing":
        return "this key is required"
    message = entry["msg"].removeprefix("Value error, ")
    if kind == "literal_error" and isinstance(given, str):
        expected = entry["ctx"]["expected"].replace(" or ", ", ")
        return message + did_you_mean(given, (word.strip("'") for word in expected.split(", ")))
    if kind == "string_type" and isinstance(given, bool):
        return f"{message}; YAML reads a bare yes, no, on, off, true or false as a boolean: put it in quotes"
    return message


def suggestion(name: str, model: type[BaseModel] | None, root: type[BaseModel]) -> str:
    """Return ``"; did you mean …?"`` for an unknown key, or nothing where no key comes near.

    Keys of its own group come first, by another tool's name for them or by spelling; then those
    of the whole file, as a full path.

    Args:
        name: the unknown key.
        model: the group that it stands in.
        root: the whole file.
    """
    here = [path[0] for path in _paths(model)] if model is not None else []
    same = [key for key in keys_for(name) if key in here]
    if same:
        return _hint(same)
    near = did_you_mean(name, here)
    if near:
        return near
    paths: dict[str, str] = {}
    for path in sorted(_paths(root), key=len):
        paths.setdefault(path[-1], dotted(path))
    elsewhere = [paths[key] for key in keys_for(name) if key in paths]
    if elsewhere:
        return _hint(elsewhere)
    close = difflib.get_close_matches(name, paths, n=1, cutoff=0.8)
    return _hint([paths[close[0]]]) if close else ""


def _hint(names: Sequence[str]) -> str:
    return "; did you mean " + " or ".join(f"'{name}'" for name in names) + "?"


def _paths(model: type[BaseModel]) -> Iterable[tuple[str, ...]]:
    """Every key of a group and of the groups below it; what users name themselves is ``NAME``."""
    for field_name, field in model.model_fields.items():
        name = field.alias or field_name
        yield (name,)
        for above, member in _groups(field.annotation):
            yield from ((name, *above, *path) for path in _paths(member))


def _groups(annotation: Any) -> Iterable[tuple[tuple[str, ...], type[BaseModel]]]:
    for member in _members(annotation):
        origin = get_origin(member)
        if _is_model(member):
            yield (), member
        elif isinstance(origin, type) and issubclass(origin, Mapping):
            yield from ((("NAME", *above), found) for above, found in _groups(get_args(member)[1]))


def _joined(messages: list[str]) -> str:
    start = "Input should be "
    if len(messages) > 1 and all(message.startswith(start) for message in messages):
        return start + " or ".join(message.removeprefix(start) for message in messages)
    return "; ".join(messages)
