"""The models of a run at work: a base model once, and whoever was taught on it, chosen for each prompt."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

from continual.adapters import AdapterBank
from continual.chat import Chat
from continual.decode import Decoder
from continual.errors import ContinualError
from continual.lora import Lora
from continual.model import load_adapter, load_model, load_tokenizer, max_positions
from continual.problems import did_you_mean
from continual.prompts import Prompt, as_conversation, as_prompts
from continual.recipe import Recipe
from continual.request import Chosen, Mix, Request
from continual.route import AUTO, BASE, Choice, Router, has_router, load_router
from continual.runs import Run
from continual.sampling import Sampling
from continual.seeds import derive
from continual.stoptext import certain

MAX_NEW_TOKENS = 256

Who: TypeAlias = str | Mix | None
"""Who answers: an adapter by name, whoever the run's router picks (``auto``), a mix of some, or the base model, also
called ``base``."""


def run_recipe(run_dir: Path, trust_remote_code: bool = False) -> Recipe:
    """The recipe of a run, as it was resolved.

    Args:
        trust_remote_code: whether whoever asks now allows Python code that comes with the model. What the file says
            of it is nothing: a run may come from somebody else.
    """
    import yaml

    data = yaml.safe_load((run_dir / "recipe.yaml").read_text(encoding="utf-8"))
    return Recipe.model_validate({**data, "trust_remote_code": trust_remote_code})


def taught(run_dir: Path) -> dict[str, Path | None]:
    """What can be asked, by name: ``base``, every arm (its first run), every specialist by its task.

    Further seeds and sweep points are ``<arm>/<run>`` and ``<task>/<run>``. Where several arms have specialists these
    names are those of the recipe's first; the others' are ``<arm>/<run>/<task>``.
    """
    found: dict[str, Path | None] = {BASE: None}
    place = {arm: n for n, arm in enumerate(run_recipe(run_dir).arms)}
    # A folder that several runs share may hold arms that the last recipe left out: they come last.
    for folder in sorted(Run(run_dir).runs(), key=lambda folder: place.get(folder.parent.name, len(place))):
        arm, name = folder.parent.name, folder.name
        states = sorted((p for p in folder.glob("after/*") if p.name.isdigit()), key=lambda p: int(p.name))
        models = {arm: states[-1]} if states else {}
        models |= {p.name: p for p in sorted(folder.glob("specialists/*")) if not p.name.startswith(".")}
        for model, path in models.items():
            found.setdefault(model, path)
            suffixed = f"{model}/{name}"
            found[suffixed if suffixed not in found else f"{arm}/{name}/{model}"] = path
    return found


def preferred(run_dir: Path) -> str:
    """Who answers when nobody is named: the first arm that rehearses, else the first that has one model."""
    recipe, names = run_recipe(run_dir), taught(run_dir)
    arms = [arm for arm in recipe.arms if arm in names]
    rehearsing = [arm for arm in arms if recipe.arms[arm].rehearsal is not None]
    for arm in rehearsing + arms:
        return arm
    raise ContinualError(f"{run_dir}: no arm has a model to ask yet; name one of {', '.join(names)}")


class Taught:
    """Everyone who can be asked in a run; all methods may be called from any thread.

    Adapters are loaded into an `AdapterBank` when they are first asked. Where a run taught whole models, or adapters
    that are no plain products (see `Adapter.factors_only`), each of its models is loaded whole instead, and answers
    its own prompts.

    Args:
        run_dir: the folder of a run.
        memory: of `AdapterBank`, in bytes.
        trust_remote_code: run Python code that comes with the model, whatever the run's recipe says.

    Raises:
        ContinualError: the run's tokenizer cannot be loaded.
    """

    def __init__(self, run_dir: Path, *, memory: int | None = None, trust_remote_code: bool = False) -> None:
        self.run_dir, self.memory = run_dir, memory
        self.recipe = run_recipe(run_dir, trust_remote_code)
        self.models = taught(run_dir)
        self.chat = Chat(load_tokenizer(self.recipe.origin), self.recipe.roles)
        self.room = max_positions(self.recipe.origin)
        adapter = self.recipe.adapter
        self.whole = adapter is None or not adapter.factors_only
        """Whether models are loaded whole, not as adapters on one base."""
        self._whole: dict[str, Any] = {}
        self._bank: AdapterBank | None = None
        self._router: Router | None = None
        self._lock = threading.RLock()

    def names(self) -> list[str]:
        """Who can be asked."""
        loaded = self._bank.names() if self._bank is not None else []
        return list(dict.fromkeys([*self.models, *loaded]))

    def check(self, who: Who) -> None:
        """See that whoever is named is there.

        Raises:
            ContinualError: somebody is not; with the names that there are. Never silently the base.
        """
        known = self.names()
        for name in _named(who):
            if who == AUTO and name not in known:
                self._fitted()
            elif name not in known:
                raise ContinualError(
                    f"unknown adapter '{name}'{did_you_mean(name, known)}; there is {', '.join(known)}"
                )
        if self.whole and isinstance(who, tuple):
            raise ContinualError(f"{self.run_dir}: its models are whole ones, which cannot be mixed")

    @property
    def routed(self) -> bool:
        """Whether there is a router, so that ``auto`` can be asked."""
        return has_router(self.run_dir)

    def pick(self, prompt: Prompt) -> Choice:
        """Who answers a prompt that is asked of ``auto``, by its last message.

        Raises:
            ContinualError: the run has no router yet, or it names somebody who is not there.
        """
        choice = self._fitted().pick(as_conversation(prompt)[-1].content)
        self.check(choice.adapter)
        return choice

    def _fitted(self) -> Router:
        with self._lock:
            if self._router is None:
                self._router = load_router(self.run_dir)
            return self._router

    def _picked(self, who: Who, prompt: Prompt) -> Who:
        return self.pick(prompt).adapter if who == AUTO and AUTO not in self.names() else who

    @property
    def bank(self) -> AdapterBank:
        """The run's base model, with the adapters that were asked so far.

        Raises:
            ContinualError: the base model cannot be loaded, or the run's models are whole ones.
        """
        with self._lock:
            if self.whole:
                raise ContinualError(f"{self.run_dir}: its models are whole ones, not adapters that could be swapped")
            if self._bank is None:
                self._bank = AdapterBank(self._base(), memory=self.memory)
            return self._bank

    def load(self, name: str, adapter: Path | str | Lora) -> None:
        """Add an adapter from elsewhere, made for the same base; see `AdapterBank.load`."""
        if name == BASE:
            raise ContinualError(f"'{BASE}' is the base model's name; give the adapter another")
        self.bank.load(name, adapter)

    def unload(self, name: str) -> None:
        """Take an adapter out of memory; one of the run is read again when it is asked for."""
        self.bank.unload(name)

    def choose(self, who: Who) -> Chosen:
        """What to tell the bank: somebody's adapter, loaded if it was not yet.

        Raises:
            ContinualError: there is no such adapter, or it cannot be used.
        """
        self.check(who)
        with self._lock:
            for name in _named(who):
                path = self.models.get(name)
                if name == BASE and self.recipe.start is not None:
                    path = Path(self.recipe.start)  # what the run began with
                if path is not None and name not in self.bank.names():
                    self.bank.load(name, path)
        base = None if self.recipe.start is None else BASE
        if isinstance(who, tuple):
            # The plain base changes nothing, whatever its weight.
            return tuple((name, weight) for name, weight in who if name != BASE or base is not None) or None
        return base if who in (None, BASE) else who

    def decoder(self) -> Decoder:
        """A new decoder of the bank: requests take for their `adapter` what `choose` gives."""
        bank = self.bank
        return Decoder(bank.model, self.chat.stop_ids, self.chat.end_id, text=self.chat.text, adapters=bank)

    def generate(
        self,
        prompts: Prompt | Iterable[Prompt],
        adapters: Sequence[Who] | Mix | str | None = None,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int = 0,
    ) -> list[str]:
        """Answer all prompts, together in one batch whoever answers them.

        Args:
            prompts: texts or conversations; a single one is a list of one.
            adapters: who answers each prompt, or one name or mix for all; the run's preferred one if left out.
            temperature: 0 takes the likeliest token, and the settings after it are those of `Sampling`.
            seed: with a prompt's place in the list it decides what is drawn for it.

        Returns:
            The answers, in the order of the prompts.

        Raises:
            TypeError: a prompt is neither a text nor a list of messages.
            ContinualError: somebody is unknown, or cannot be loaded; or messages are not in order.
        """
        conversations = [as_conversation(prompt, f"prompts[{n}]") for n, prompt in enumerate(as_prompts(prompts))]
        if adapters is None:
            adapters = preferred(self.run_dir)
        asked: list[Who]
        if isinstance(adapters, str) or _is_mix(adapters):
            asked = [cast(Who, adapters)] * len(conversations)
        else:
            asked = list(cast(Sequence[Who], adapters))
        if len(asked) != len(conversations):
            raise ContinualError(
                f"there are {len(conversations)} prompts and {len(asked)} adapters: give one for each"
            )
        each = [self._picked(who, prompt) for who, prompt in zip(asked, conversations, strict=True)]
        sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
        requests = [
            self.request(prompt, max_new_tokens, sampling, derive(seed, "generate", n))
            for n, prompt in enumerate(conversations)
        ]
        for who in each:
            self.check(who)
        said: dict[int, str] = {}
        for decoder, members in self._decoders(each):
            part = [requests[n] for n in members]
            outputs = decoder.generate(
                [request.prompt for request in part],
                [request.max_new_tokens for request in part],
                sampling,
                [request.seed or 0 for request in part],
                until=self.chat.stop_texts,
                adapters=None if self.whole else [self.choose(each[n]) for n in members],
            )
            said |= {n: self.chat.answer_text(output.ids) for n, output in zip(members, outputs, strict=True)}
        return [said[n] for n in range(len(conversations))]

    def stream(self, prompt: Prompt, who: Who = None) -> Iterator[str]:
        """The greedy answer to a prompt, piece by piece as it is written.

        Raises:
            ContinualError: as for `generate`.
        """
        who = self._picked(who, prompt)
        self.check(who)
        ((decoder, _),) = self._decoders([who])
        request = self.request(prompt, MAX_NEW_TOKENS, Sampling(), 0, None if self.whole else self.choose(who))
        ids: list[int] = []
        said = ""
        for event in decoder.stream([request]):
            ids.append(event.id)
            text = self.chat.answer_text(ids)
            text = text if event.done else certain(text, self.chat.stop_texts)
            # A part of a character reads as U+FFFD until the rest is there.
            if text.startswith(said) and (event.done or not text.endswith("\ufffd")):
                yield text[len(said) :]
                said = text

    def request(
        self, prompt: Prompt, max_new_tokens: int, sampling: Sampling, seed: int, adapter: Chosen = None
    ) -> Request:
        """A prompt as the decoder takes it. One that leaves no room for an answer loses its middle."""
        messages = as_conversation(prompt)
        new = min(max_new_tokens, self.room // 2)
        prompt_ids = self.chat.prompt_ids(messages, self.room - new)
        until = self.chat.stop_texts
        return Request(prompt_ids, new, sampling, seed, until=until, adapter=adapter)

    def model(self, name: str) -> Any:
        """A model of its own as the run left it, apart from the bank.

        Raises:
            ContinualError: there is none of that name, or it cannot be loaded.
        """
        self.check(name)
        recipe, path = self.recipe, self.models[name]
        if path is not None and recipe.adapter is None:
            return load_model(recipe.origin.whole(path), recipe.weights_dtype)
        if path is None and recipe.start is not None:
            path = Path(recipe.start)
        return self._base() if path is None else load_adapter(self._base(), path)

    def _base(self) -> Any:
        recipe = self.recipe
        return load_model(recipe.origin, recipe.weights_dtype)

    def _decoders(self, each: Sequence[Who]) -> Iterator[tuple[Decoder, list[int]]]:
        """Who can be asked together, as places in a list: all adapters; or each whole model for itself."""
        if not self.whole:
            yield self.decoder(), list(range(len(each)))
            return
        for who in dict.fromkeys(each):
            name = BASE if who is None else str(who)
            with self._lock:
                if name not in self._whole:
                    self._whole[name] = self.model(name)
            decoder = Decoder(self._whole[name], self.chat.stop_ids, self.chat.end_id, text=self.chat.text)
            yield decoder, [n for n, one in enumerate(each) if one == who]


def _is_mix(adapters: Sequence[Who] | Mix) -> bool:
    """Whether this is one mix, names with weights, and not a list of those who answer."""
    pairs = (isinstance(one, tuple) and len(one) == 2 and isinstance(one[0], str) for one in adapters)
    return isinstance(adapters, tuple) and bool(adapters) and all(pairs)


def _named(who: Who) -> list[str]:
    if isinstance(who, tuple):
        return [name for name, _ in who]
    return [BASE if who is None else who]
