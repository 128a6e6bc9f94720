"""What a request may ask for: the bodies of OpenAI's routes, and what others have added to them."""

from __future__ import annotations

import gc
from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import from_json
from starlette.requests import Request

from continual.inference import MAX_NEW_TOKENS
from continual.prompts import order_problem
from continual.sample import Message, Role
from continual.sampling import Sampling
from continual.serve.errors import ApiError

MAX_BODY = 8 * 2**20
"""Bytes of a body."""
MAX_KEYS = 64
"""Keys of an object."""
MAX_PROBLEMS = 10
"""Mistakes that an error names."""
MAX_SEED = 2**63 - 1

# Every text and list of a body has a limit, so that nothing large is looked at more than once. How much the model
# has room for is checked later, by `Generation`.
Text = Annotated[str, Field(max_length=4 * 2**20)]
"""What a model reads."""
Name = Annotated[str, Field(max_length=4096)]
"""Of a model or an adapter, or a path."""
StopText = Annotated[str, Field(max_length=1000)]
TokenIds = Annotated[list[int], Field(max_length=2**18, fail_fast=True)]

HARMLESS: dict[str, Any] = {
    "audio": None,
    "best_of": 1,
    "echo": False,
    "frequency_penalty": 0,
    "function_call": "none",
    "functions": [],
    "guided_json": None,
    "logit_bias": {},
    "modalities": ["text"],
    "presence_penalty": 0,
    "response_format": {"type": "text"},
    "suffix": "",
    "tool_choice": "none",
    "tools": [],
    "use_beam_search": False,
}
"""Keys that would change the answer and are not done here, with the value at which they change nothing."""

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Bounded(BaseModel):
    """An object of a body: it has few keys, and all of its texts and lists have limits (a test walks the schema)."""

    @model_validator(mode="before")
    @classmethod
    def _few_keys(cls, data: Any) -> Any:
        # Before anything looks at the keys one by one.
        if isinstance(data, dict) and len(data) > MAX_KEYS:
            raise ValueError(f"an object with {len(data)} keys: at most {MAX_KEYS} are read")
        return data


class Part(Bounded):
    """A piece of a message's content."""

    type: Literal["text"]
    text: Text


class FunctionCall(Bounded):
    """What an assistant calls."""

    name: Name
    arguments: Text
    """An object, as JSON."""

    @field_validator("arguments")
    @classmethod
    def _is_an_object(cls, text: str) -> str:
        if not isinstance(from_json(text), dict):
            raise ValueError("a JSON object is expected")
        return text


class ToolCall(Bounded):
    """A call in an assistant's message."""

    type: Literal["function"] = "function"
    function: FunctionCall

    @property
    def as_templates_take_it(self) -> dict[str, Any]:
        """The call with its arguments as an object, which chat templates expect."""
        function = {"name": self.function.name, "arguments": from_json(self.function.arguments)}
        return {"type": self.type, "function": function}


class ChatMessage(Bounded):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Annotated[list[Part], Field(max_length=1024, fail_fast=True)] | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=128, fail_fast=True)] | None = None
    name: Name | None = None

    @model_validator(mode="after")
    def _says_something(self) -> ChatMessage:
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only an assistant calls tools")
        if self.content is None and not self.tool_calls:
            raise ValueError("content: a text is expected")
        return self

    @property
    def message(self) -> Message:
        """The message as the model's chat form takes it."""
        content = self.content or ""
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        calls = tuple(call.as_templates_take_it for call in self.tool_calls or ())
        role: Role = "system" if self.role == "developer" else self.role
        return Message(role, text, calls, self.name if role == "tool" else None)


class StreamOptions(Bounded):
    """What a stream tells beside the answer."""

    include_usage: bool = False


class Scaled(Bounded):
    """One adapter with its weight, as llama.cpp's server takes it; by name, not by number."""

    id: Name
    scale: Finite = 1.0


class MergedAdapters(Bounded):
    """Several adapters with their weights, as LoRAX takes them."""

    model_config = ConfigDict(extra="forbid")

    ids: list[Name] = Field(min_length=1, max_length=256, fail_fast=True)
    weights: list[Finite] = Field(max_length=256, fail_fast=True)
    merge_strategy: Literal["linear"] = "linear"

    @model_validator(mode="after")
    def _paired(self) -> MergedAdapters:
        if len(self.ids) != len(self.weights):
            raise ValueError("ids and weights must be equally many")
        return self


class Body(Bounded):
    """What both ways of asking have in common."""

    default: ClassVar[int]
    """The most tokens to write where a request does not say."""

    model: Name
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1)
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0, le=10)
    seed: int | None = Field(None, ge=-MAX_SEED - 1, le=MAX_SEED)
    stop: StopText | Annotated[list[StopText], Field(max_length=16, fail_fast=True)] = []
    n: int = Field(1, ge=1, le=128)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    max_tokens: int | None = Field(None, ge=1)
    merged_adapters: MergedAdapters | None = None
    lora: Annotated[list[Scaled], Field(max_length=256, fail_fast=True)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _only_what_is_done(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise ValueError("a JSON object is expected")
        if len(data) > MAX_KEYS:
            return data  # which is refused by `_few_keys`
        given = {key: value for key, value in data.items() if value is not None}
        for key, harmless in HARMLESS.items():
            if key in given and given[key] != harmless:
                raise ValueError(f"'{key}' is not supported here")
        return given

    @model_validator(mode="after")
    def _consistent(self) -> Body:
        if not all(self.stops):
            raise ValueError("a stop text must not be empty")
        if self.merged_adapters is not None and self.lora is not None:
            raise ValueError("merged_adapters and lora say the same thing: give one of them")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def sampling(self) -> Sampling:
        top_k = max(self.top_k, 0)
        if self.temperature == 0:
            return Sampling(repetition_penalty=self.repetition_penalty)
        return Sampling(self.temperature, top_k, self.top_p, self.min_p, self.repetition_penalty)

    @property
    def weights(self) -> list[tuple[str, float]] | None:
        """Several adapters with their weights, where the request names them."""
        if self.merged_adapters is not None:
            return list(zip(self.merged_adapters.ids, self.merged_adapters.weights, strict=True))
        return None if self.lora is None else [(entry.id, entry.scale) for entry in self.lora]

    @property
    def asked(self) -> int | None:
        """The most tokens to write, where the request says it."""
        return self.max_tokens

    @property
    @abstractmethod
    def top(self) -> int | None:
        """How many of the likeliest tokens are told with each; None tells nothing."""


class ChatBody(Body):
    """`/v1/chat/completions`."""

    default = MAX_NEW_TOKENS

    messages: list[ChatMessage] = Field(min_length=1, max_length=2048, fail_fast=True)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)

    @model_validator(mode="after")
    def _conversation(self) -> ChatBody:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs")
        problem = order_problem([entry.message for entry in self.messages])
        if problem is not None:
            raise ValueError(f"messages: {problem}")
        return self

    @property
    def asked(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def top(self) -> int | None:
        return self.top_logprobs if self.logprobs else None


def _kind_of_prompt(prompt: Any) -> str:
    """Which of its types a prompt shall be read as: its first entry says it, so that only one is tried."""
    if not isinstance(prompt, list):
        return "text"
    if not prompt or isinstance(prompt[0], str):
        return "texts"
    return "lists of ids" if isinstance(prompt[0], list) else "ids"


class CompletionBody(Body):
    """`/v1/completions`."""

    default = 16  # OpenAI's

    prompt: Annotated[
        Annotated[Text, Tag("text")]
        | Annotated[list[Text], Field(max_length=2048, fail_fast=True), Tag("texts")]
        | Annotated[TokenIds, Tag("ids")]
        | Annotated[list[TokenIds], Field(max_length=2048, fail_fast=True), Tag("lists of ids")],
        Discriminator(_kind_of_prompt),
    ]
    logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def top(self) -> int | None:
        return self.logprobs

    @property
    def prompts(self) -> list[str | list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        if all(isinstance(part, int) for part in self.prompt):
            return [list(self.prompt)]  # type: ignore[arg-type]
        return list(self.prompt)  # type: ignore[arg-type]


class LoadBody(Bounded):
    """`/v1/load_lora_adapter`, as vLLM has it."""

    lora_name: Name
    lora_path: Name
    load_inplace: bool = False
    """Take the place of an adapter of that name."""


class UnloadBody(Bounded):
    """`/v1/unload_lora_adapter`."""

    lora_name: Name


Kind = TypeVar("Kind", bound=Bounded)


async def read(request: Request, kind: type[Kind]) -> Kind:
    """The body of a request.

    Raises:
        ApiError: it is no JSON, too large, or not what the route takes.
    """
    # A page of another site can make a browser send anything but this type without asking first.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "the body must be sent as application/json")
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > MAX_BODY:
            raise ApiError(413, f"the body is larger than {MAX_BODY // 2**20} MiB")
    # A million small lists would make the collector look through all objects of the program again and again.
    gc.disable()
    try:
        return _validated(bytes(raw), kind)
    finally:
        gc.enable()


def _validated(raw: bytes, kind: type[Kind]) -> Kind:
    try:
        # Unlike `json`, this refuses halves of characters, which can be written in JSON but are no text.
        data = from_json(raw)
    except ValueError as error:
        raise ApiError(400, f"the body is no JSON: {error}") from error
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise _malformed(error) from error


def _malformed(error: ValidationError) -> ApiError:
    """Name the first mistakes, each with its key, in one line."""
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    problems = []
    for entry in errors[:MAX_PROBLEMS]:
        place = ".".join(map(str, entry["loc"]))
        problems.append(f"{place}: {entry['msg']}" if place else entry["msg"].removeprefix("Value error, "))
    first = errors[0]["loc"]
    message = "; ".join(dict.fromkeys(problems))
    if len(errors) > MAX_PROBLEMS:
        message += f"; and {len(errors) - MAX_PROBLEMS} more"
    return ApiError(400, message, None, str(first[0]) if first else None)
