"""Chat templates of tokenizers: how one renders conversations, read off its own renderings.

No template is parsed and none has a special case: probe conversations are rendered, and what stands around their
contents are the marks. Three things are mended where a template needs it, and the mended template is the one that is
taught, asked and saved: a generation prompt that goes on otherwise than an answer does, an answer that nothing ends,
and content that only comes out as a list of parts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from continual.errors import ContinualError
from continual.sample import Message

S, U, A, U2, A2 = "SYSTEMWORDS", "USERWORDS", "ANSWERWORDS", "SECONDUSERWORDS", "SECONDANSWERWORDS"
SYSTEM = Message("system", S)
TURN = (Message("user", U), Message("assistant", A))
TURNS = (*TURN, Message("user", U2), Message("assistant", A2))

THINKING_OFF = "{%- set enable_thinking = enable_thinking | default(false) %}\n"

CUT = """\
{%- set rendered %}
BODY{% endset %}
{%- if add_generation_prompt and rendered.endswith(EXTRA) %}{{- rendered[:-LENGTH] }}\
{% else %}{{- rendered }}{% endif %}"""

END = """\
{%- set rendered %}
BODY{% endset %}{{- rendered }}\
{%- if not add_generation_prompt and messages[-1]['role'] == 'assistant' %}{{- MARK }}{% endif %}"""

PLAIN = """\
{{- BOS }}{% for message in messages %}{% if message['role'] == 'system' %}SYSTEM{{ message['content'] | trim }}
{% elif message['role'] == 'user' %}{% if not loop.first and messages[loop.index0 - 1]['role'] == 'assistant' %}

{% endif %}USER{{ message['content'] | trim }}ANSWER{% elif message['role'] == 'assistant' %}\
{{ ' ' + message['content'] | trim + eos_token }}{% else %}\
{{ raise_exception('this form has no place for turns of the role ' + message['role']) }}{% endif %}{% endfor %}"""


class UnusableTemplate(Exception):
    """Why a chat template cannot be taught, in one line."""


@dataclass(frozen=True)
class Marks:
    """What stands around the contents of a conversation."""

    bos: str
    """Before everything, once."""
    lead: str
    """Between `bos` and the first turn where a conversation has no system line: a line of the template's own, or
    whatever a cue takes the place of."""
    cue: tuple[str, str]
    """Around a cue, from `bos` on; it stands in the place of `lead`."""
    system: tuple[str, str] | None
    """Around the words of a system line; None where it is part of the user's turn, or refused."""
    user_head: str
    """Between `lead` and the user's words."""
    answer_head: str
    """Between a user's words and the answer, as far as it is the same before every answer."""
    thought: str
    """What the last answer has between `answer_head` and its words."""
    asked: str
    """Between a user's words and the answer, as far as the generation prompt goes."""
    opening: str
    """What an answer begins with before its own words, behind `asked`: an empty thought, the name of a channel."""
    next_user: str
    """Between an answer and the user's next words."""
    end: str
    """What ends the last answer, a token or a text."""
    tail: str
    """Everything behind the last answer's words; begins with `end`, after blanks at most."""
    rewrites: bool
    """Whether an answer is written otherwise once the conversation goes on."""


def plain_template(bos: str, roles: bool) -> str:
    """Return the chat template of the plain form, or of the form without roles."""
    text = PLAIN.replace("BOS", json.dumps(bos))
    words = {"SYSTEM": "System: ", "USER": "User: ", "ANSWER": "\nAI:"} if roles else {}
    for name in ("SYSTEM", "USER", "ANSWER"):
        text = text.replace(name, "{{ " + json.dumps(words.get(name, "")) + " }}")
    return text


class ChatTemplate:
    """A chat template that can be taught, for one tokenizer.

    Args:
        tokenizer: a fast one of transformers, with a chat template.

    Raises:
        UnusableTemplate: it cannot be taught.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.in_parts = False
        """Whether contents are given as lists of parts."""
        self._added = [token.content for token in tokenizer.added_tokens_decoder.values()]
        own = tokenizer.chat_template
        if not isinstance(own, str):
            if "default" not in own:
                raise UnusableTemplate(
                    f"none of its templates is called default; there is {', '.join(own)}"
                )
            own = own["default"]
        self.text = own
        self.in_parts = self._needs_parts()
        self.text, self.marks = self._mended(own)

    def render(
        self, messages: Sequence[Message], tools: Sequence[Any] = (), asked: bool = False
    ) -> str:
        """Return a conversation as text.

        Args:
            asked: add the generation prompt.

        Raises:
            ContinualError: the template refuses the conversation.
        """
        turns = [message.to_dict() for message in messages]
        if self.in_parts:
            for turn in turns:
                turn["content"] = [{"type": "text", "text": turn["content"]}]
        try:
            rendered = self.tokenizer.apply_chat_template(
                turns,
                tools=[dict(tool) for tool in tools] or None,
                chat_template=self.text,
                add_generation_prompt=asked,
                tokenize=False,
            )
        except (
            Exception
        ) as error:  # a template may raise anything it likes; its words are the reason
            lines = str(error).splitlines() or [type(error).__name__]
            roles = ", ".join(message.role for message in messages)
            raise ContinualError(
                f"the chat template refuses a conversation of {roles}: {lines[0]}"
            ) from None
        return str(rendered)

    def _needs_parts(self) -> bool:
        reasons = []
        for self.in_parts in (False, True):
            try:
                rendered = self.render(TURN)
            except ContinualError as error:
                reasons.append(str(error))
                continue
            if rendered.count(U) == rendered.count(A) == 1:
                return self.in_parts
            reasons.append("it changes the words of a message")
        raise UnusableTemplate(reasons[0])

    def _mended(self, own: str) -> tuple[str, Marks]:
        """The first of some ways to write the template in which a prompt is what the answer continues."""
        whole = self.render(TURN)
        for text in (own, THINKING_OFF + own):
            self.text = text
            asked = self.render(TURN[:1], asked=True)
            # With thinking off, only the prompt may be another one.
            continues = self.render(TURN) == whole and whole.startswith(asked)
            if continues and clean_seam(self.tokenizer, whole, len(asked)):
                return self._ended(text)
        return self._ended(self._cut(own))

    def _cut(self, own: str) -> str:
        """The template without that end of its generation prompt with which no answer goes on."""
        self.text = own
        asked, whole = self.render(TURN[:1], asked=True), self.render(TURN)
        common = os.path.commonprefix([asked, whole])
        # A seam inside a token is moved before it.
        common = common[: seam(self.tokenizer, whole, len(common))]
        if len(common) < whole.index(U) + len(U):
            raise UnusableTemplate("its generation prompt differs from the start of an answer")
        if common == asked:
            return own
        return _wrapped(
            CUT, own, EXTRA=json.dumps(asked[len(common) :]), LENGTH=str(len(asked) - len(common))
        )

    def _ended(self, text: str) -> tuple[str, Marks]:
        """The template with an end behind the last answer, where it writes none; and its marks."""
        self.text = text
        if not self.render(TURN).partition(A)[2].strip():
            following = self.render(TURNS).partition(A)[2].partition(U2)[0].lstrip()
            mark = self._token_at(following) or self.tokenizer.eos_token
            text = _wrapped(END, text, MARK=json.dumps(mark))
        self.text = text
        return text, self._marks()

    def _token_at(self, text: str) -> str:
        """The added token that a text begins with; empty where there is none."""
        return max((token for token in self._added if text.startswith(token)), key=len, default="")

    def _end_in(self, tail: str) -> str:
        """What ends an answer: the first added token behind it, else everything behind it."""
        places = [(tail.find(token), -len(token), token) for token in self._added if token in tail]
        return min(places)[2] if places else tail.strip()

    def _marks(self) -> Marks:
        one, two = self.render(TURN), self.render(TURNS)
        before, _, rest = one.partition(U)
        between, _, tail = rest.partition(A)
        prompt = self.render(TURN[:1], asked=True)
        asked = prompt[len(before + U) :]
        if not one.startswith(prompt):
            raise UnusableTemplate("its generation prompt differs from the start of an answer")
        after = two.partition(A)[2]
        next_user = after.partition(U2)[0]
        if not (U2 in after and A2 in after and next_user.strip()):
            raise UnusableTemplate("it puts no mark between an answer and the next question")
        end = self._end_in(tail)
        bos = self.tokenizer.bos_token or ""
        # Some tokenizers call the mark that begins every turn their beginning of text.
        bos = bos if bos and before.startswith(bos) and two.count(bos) == 1 else ""
        as_asked = two.startswith(before + U + between + A) and next_user.lstrip().startswith(end)
        answer_head = os.path.commonprefix([two.partition(U)[2].partition(A)[0], between, asked])
        lead, cue, system, user_head = self._cue_place(
            before, one, bos, self._header(next_user, tail)
        )
        return Marks(
            bos=bos,
            lead=lead,
            cue=cue,
            system=system,
            user_head=user_head,
            answer_head=answer_head,
            thought=between[len(answer_head) :],
            asked=asked,
            opening=between[len(asked) :],
            next_user=next_user,
            end=end,
            tail=tail,
            rewrites=not as_asked,
        )

    def _header(self, next_user: str, tail: str) -> str:
        """What begins a user's turn, without what ended the turn before."""
        if tail and next_user.startswith(tail):
            return next_user[len(tail) :]
        return next_user.partition(self._end_in(next_user))[2]

    def _system_probe(self) -> str | None:
        """A conversation with a system line; None where the template refuses it or drops its words."""
        try:
            rendered = self.render((SYSTEM, *TURN))
        except ContinualError:
            return None
        return rendered if rendered.count(S) == 1 and S in rendered.partition(U)[0] else None

    def _cue_place(
        self, before: str, one: str, bos: str, header: str
    ) -> tuple[str, tuple[str, str], tuple[str, str] | None, str]:
        """Where a cue stands: `lead`, `cue`, `system` and `user_head` of the marks."""
        before, bare = before[len(bos) :], one[len(bos) :]
        rendered = self._system_probe()
        if rendered is None:
            words = self.render((Message("user", f"{S}\n\n{U}"), TURN[1]))[len(bos) :]
            head, _, end = words.partition(U)[0].partition(S)
            return before, (head, end), None, ""
        head, _, rest = rendered[len(bos) :].partition(S)
        if rest.endswith(bare):
            line = (head, rest[: -len(bare)])
            return "", line, line, before
        end = rest.partition(U)[0]
        if not (header and before.endswith(header) and end.endswith(header)):
            return before, (head, end), None, ""
        line = (head, end.removesuffix(header))
        return before.removesuffix(header), line, line, header


def _wrapped(outer: str, body: str, **values: str) -> str:
    for name, value in values.items():
        outer = outer.replace(name, value)
    return outer.replace("BODY", body.removesuffix("\n"), 1)


def token_ends(tokenizer: Any, text: str) -> tuple[list[int], list[int]]:
    """Return the ids of a text, and the place in the text where each token ends."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return list(encoded.input_ids), [end for _, end in encoded.offset_mapping]


def seam(tokenizer: Any, text: str, place: int) -> int:
    """Return the last place, up to the one given, at which a token ends."""
    return max((end for end in token_ends(tokenizer, text)[1] if end <= place), default=0)


def clean_seam(tokenizer: Any, text: str, place: int) -> bool:
    """Return whether a text may be cut at a place without cutting a token."""
    return seam(tokenizer, text, place) == place
