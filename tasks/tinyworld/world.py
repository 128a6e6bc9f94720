"""A micro-world in English and Chinese: who does what to which thing, where and when, and how they feel.

A `Fact` is a proposition that both languages can say. A fixed hash puts each proposition on the train side or
the test side; a text of one side states propositions of that side only, so that a test row is always a new
composition of known words. The functions at the end give the rows of the skills.
"""

import csv
import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Word(NamedTuple):
    """One row of lexicon.csv. `form` is the plural, the third person, the pronoun or the preposition."""

    kind: str
    en: str
    form: str
    zh: str
    extra: str


def _lexicon() -> dict[str, list[Word]]:
    words: dict[str, list[Word]] = {}
    with Path(__file__).with_name("lexicon.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            words.setdefault(row["kind"], []).append(Word(**row))
    return words


WORDS = _lexicon()
PRONOUNS = {"he": "他", "she": "她", "it": "它", "they": "他们"}
NUMBERS = {1: "一", 2: "两", 3: "三"}
BE = Word("be", "are", "is", "", "")


class Who(NamedTuple):
    en: str
    zh: str
    pronoun: str

    @property
    def plural(self) -> bool:
        return self.pronoun == "they"

    def again(self) -> "Who":
        """The same one by the pronoun."""
        return Who(self.pronoun, PRONOUNS[self.pronoun], self.pronoun)


class Thing(NamedTuple):
    noun: Word
    number: int = 1
    adjective: Word | None = None

    @property
    def en(self) -> str:
        noun = self.noun.en if self.number == 1 else self.noun.form
        phrase = f"{self.adjective.en} {noun}" if self.adjective else noun
        if self.number > 1:
            return f"{'two' if self.number == 2 else 'three'} {phrase}"
        return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"

    @property
    def zh(self) -> str:
        adjective = self.adjective.zh if self.adjective else ""
        return NUMBERS[self.number] + self.noun.extra + adjective + self.noun.zh


class Fact(NamedTuple):
    who: Who
    verb: Word
    thing: Thing | None = None
    place: Word | None = None
    time: Word | None = None

    @property
    def key(self) -> str:
        """The proposition without its ornaments: what decides the side."""
        thing = self.thing.noun.en if self.thing else "-"
        return f"{self.who.en}|{self.verb.en}|{thing}|{self.place.en if self.place else '-'}"

    def en(self, who: Who | None = None) -> str:
        """The English sentence, with another phrase for its subject where one is given."""
        who = who or self.who
        parts = [who.en, self.verb.en if who.plural else self.verb.form]
        parts += [self.thing.en] if self.thing else []
        parts += [place_en(self.place)] if self.place else []
        parts += [self.time.en] if self.time else []
        return upper(" ".join(parts)) + "."

    def zh(self, who: Who | None = None) -> str:
        """The Chinese sentence: time and place stand before the verb."""
        time = self.time.zh if self.time else ""
        place = f"在{self.place.zh}" if self.place else ""
        thing = self.thing.zh if self.thing else ""
        return (who or self.who).zh + time + place + self.verb.zh + thing + "。"

    def say(self, language: str, who: Who | None = None) -> str:
        return self.en(who) if language == "en" else self.zh(who)


def upper(text: str) -> str:
    return text[0].upper() + text[1:]


def place_en(place: Word) -> str:
    return f"{place.form} the {place.en}"


def side(fact: Fact) -> str:
    """ "test" for a fifth of the propositions, "train" for the rest; the same for ever and everywhere."""
    return "test" if hashlib.blake2b(fact.key.encode(), digest_size=4).digest()[0] % 5 == 0 else "train"


def person(rng: random.Random) -> Who:
    """One person or animal, never several."""
    word = rng.choice(WORDS[rng.choice(("name", "name", "name", "role", "role", "animal"))])
    if word.kind == "name":
        return Who(word.en, word.zh, word.form)
    return Who(f"the {word.en}", word.zh, "it" if word.kind == "animal" else word.extra)


def anyone(rng: random.Random) -> Who:
    """One person or animal, two people, or several of a kind."""
    draw = rng.random()
    if draw < 0.6:
        return person(rng)
    if draw < 0.8:
        word = rng.choice(WORDS["role"])
        return Who(f"the {word.form}", word.zh + "们", "they")
    one, two = rng.sample(WORDS["name"], 2)
    return Who(f"{one.en} and {two.en}", f"{one.zh}和{two.zh}", "they")


def thing(rng: random.Random) -> Thing:
    adjective = rng.choice(WORDS[rng.choice(("colour", "size"))]) if rng.random() < 0.5 else None
    count = 1 if rng.random() < 0.75 else rng.choice((2, 3))
    return Thing(rng.choice(WORDS[rng.choice(("thing", "thing", "animal"))]), count, adjective)


def maybe(rng: random.Random, kind: str, chance: float) -> Word | None:
    return rng.choice(WORDS[kind]) if rng.random() < chance else None


def on(wanted: str, make: Callable[[], Fact]) -> Fact:
    """Facts are made until one lies on the wanted side."""
    while side(fact := make()) != wanted:
        pass
    return fact


def deed(rng: random.Random, who: Who) -> Fact:
    """Somebody does something with a thing, perhaps somewhere, perhaps at some time."""
    verb, place, time = rng.choice(WORDS["verb"]), maybe(rng, "place", 0.6), maybe(rng, "time", 0.2)
    return Fact(who, verb, thing(rng), place, time)


def act(rng: random.Random, who: Who, mood: str = "") -> Fact:
    """Somebody does something that needs no thing; `mood` is "", "good" or "bad"."""
    verbs = [word for word in WORDS["act"] if word.extra == mood]
    return Fact(who, rng.choice(verbs), None, maybe(rng, "place", 0.5), maybe(rng, "time", 0.2))


def feelings(who: Who, mood: str, split: str) -> list[Fact]:
    """Every way in which somebody is happy or sad, as far as it lies on a side: perhaps none."""
    words = [word for word in WORDS["feeling"] if word.extra == mood]
    verbs = [Word("feeling", f"are {word.en}", f"is {word.en}", f"很{word.zh}", mood) for word in words]
    return [fact for verb in verbs if side(fact := Fact(who, verb)) == split]


def statement(rng: random.Random, split: str) -> Fact:
    """Any one fact of a side."""

    def make() -> Fact:
        who = anyone(rng)
        if rng.random() < 0.75:
            return deed(rng, who)
        mood = rng.choice(("", "good", "bad"))
        return rng.choice(feelings(who, mood, split) or [act(rng, who, mood)])

    return on(split, make)


class Story(NamedTuple):
    """Somebody is somewhere, things happen, at last comes the main deed, perhaps a feeling."""

    start: Fact
    middle: list[Fact]
    deed: Fact
    end: Fact | None

    def tell(self, language: str) -> list[str]:
        who = self.start.who
        lines = [self.start.say(language)]
        lines += [fact.say(language, who.again() if fact.who == who else None) for fact in self.middle]
        last = self.deed._replace(place=None).say(language, who.again())
        lines.append(f"At last {last[0].lower()}{last[1:]}" if language == "en" else f"最后{last}")
        return lines + ([self.end.say(language, who.again())] if self.end else [])

    def short(self) -> Fact:
        """The main deed in its place, without ornaments."""
        assert self.deed.thing
        return self.deed._replace(thing=self.deed.thing._replace(adjective=None))


def story(rng: random.Random, split: str) -> Story:
    start = on(split, lambda: Fact(person(rng), BE, None, rng.choice(WORDS["place"])))
    who = start.who
    middle = []
    for _ in range(rng.choice((0, 1, 1, 2))):
        if rng.random() < 0.5:
            middle.append(on(split, lambda: act(rng, person(rng))._replace(place=None, time=None)))
        else:
            middle.append(on(split, lambda: deed(rng, who)._replace(place=None, time=None)))
    while True:
        # The story says the deed without its place, the headline says it with it: both must be of the side.
        main = deed(rng, who)._replace(place=start.place, time=None)
        if side(main) == side(main._replace(place=None)) == split:
            break
    ends = feelings(who, rng.choice(("good", "bad")), split)
    return Story(start, middle, main, rng.choice(ends) if ends and rng.random() < 0.6 else None)


def passage(rng: random.Random, split: str, size: int) -> list[Fact]:
    """Deeds in places, by different people, with different things: each can be asked about without doubt."""
    facts: list[Fact] = []
    while len(facts) < size:
        fact = on(split, lambda: deed(rng, person(rng))._replace(place=rng.choice(WORDS["place"]), time=None))
        assert fact.thing
        if all(fact.who != other.who and other.thing and fact.thing.noun != other.thing.noun for other in facts):
            facts.append(fact)
    return facts


def question(rng: random.Random, fact: Fact, language: str) -> tuple[str, str]:
    """A question about a fact of a passage, and its short answer."""
    assert fact.thing and fact.place
    who, verb = fact.who, fact.verb
    kind = rng.choice(("who", "what", "where"))
    if language == "zh":
        return {
            "who": (f"谁{verb.zh}{fact.thing.zh}？", who.zh),
            "what": (f"{who.zh}{verb.zh}什么？", fact.thing.zh),
            "where": (f"{who.zh}在哪里？", fact.place.zh),
        }[kind]
    return {
        "who": (f"Who {verb.form} {fact.thing.en}?", who.en),
        "what": (f"What does {who.en} {verb.en}?", fact.thing.en),
        "where": (f"Where is {who.en}?", place_en(fact.place)),
    }[kind]


def rows(skill: str, split: str, n: int, make: Callable[[random.Random], dict[str, str]]) -> list[dict[str, str]]:
    """`n` different rows; the same ones for the same skill and split, whatever else was drawn before."""
    rng = random.Random(f"{skill} {split}")
    found: dict[str, dict[str, str]] = {}
    while len(found) < n:
        row = make(rng)
        found.setdefault(" ".join(value for name, value in row.items() if name != "target"), row)
    return list(found.values())


def translate(split: str, n: int) -> list[dict[str, str]]:
    """An English sentence (`text`) and the same in Chinese (`target`)."""

    def make(rng: random.Random) -> dict[str, str]:
        fact = statement(rng, split)
        return {"text": fact.en(), "target": fact.zh()}

    return rows("translate", split, n, make)


def edit(split: str, n: int) -> list[dict[str, str]]:
    """A sentence with one or two mistakes (`text`) and the right one (`target`)."""

    def make(rng: random.Random) -> dict[str, str]:
        fact = on(split, lambda: deed(rng, anyone(rng)))
        return {"text": break_grammar(rng, fact), "target": fact.en()}

    return rows("edit", split, n, make)


def break_grammar(rng: random.Random, fact: Fact) -> str:
    """The English sentence with one or two mistakes that can be mended in only one way."""
    assert fact.thing
    text, thing_en = fact.en(), fact.thing.en
    verbs = (f" {fact.verb.form} ", f" {fact.verb.en} ")
    if fact.thing.number == 1:
        article, rest = thing_en.split(" ", 1)
        wrong_things = [rest, f"{'a' if article == 'an' else 'an'} {rest}"]
    else:
        wrong_things = [thing_en.removesuffix(fact.thing.noun.form) + fact.thing.noun.en]
    mistakes = [verbs[::-1] if fact.who.plural else verbs, (f" {thing_en}", f" {rng.choice(wrong_things)}")]
    if fact.place:
        mistakes.append((" the " + fact.place.en, " " + fact.place.en))
    for right, wrong in rng.sample(mistakes, rng.choice((1, 2))):
        text = text.replace(right, wrong, 1)
    return text


def summarize(split: str, n: int) -> list[dict[str, str]]:
    """A story (`text`) and its headline (`target`): who did at last what, and where."""

    def make(rng: random.Random) -> dict[str, str]:
        told = story(rng, split)
        return {"text": " ".join(told.tell("en")), "target": told.short().en().removesuffix(".")}

    return rows("summarize", split, n, make)


def answer(split: str, n: int, language: str = "en") -> list[dict[str, str]]:
    """A `passage`, a `question` about it and its short answer (`target`), in English or Chinese ("zh")."""

    def make(rng: random.Random) -> dict[str, str]:
        facts = passage(rng, split, 2)
        asked, target = question(rng, rng.choice(facts), language)
        return {
            "passage": join([fact.say(language) for fact in facts], language),
            "question": asked,
            "target": target,
        }

    return rows(f"answer {language}", split, n, make)


def join(sentences: list[str], language: str) -> str:
    return (" " if language == "en" else "").join(sentences)


def sentiment(split: str, n: int) -> list[dict[str, str]]:
    """Two sentences about somebody (`text`) and how they feel (`target`: positive, negative or neutral)."""
    labels = {"good": "positive", "bad": "negative", "": "neutral"}

    def make(rng: random.Random) -> dict[str, str]:
        who, mood = person(rng), rng.choice(list(labels))
        first = on(split, lambda: deed(rng, who))
        felt = feelings(who, mood, split) if rng.random() < 0.7 else []
        second = rng.choice(felt) if felt else on(split, lambda: act(rng, who, mood))
        said = [first, second] if rng.random() < 0.7 else [second, first]
        return {"text": f"{said[0].en()} {said[1].en(who.again())}", "target": labels[mood]}

    return rows("sentiment", split, n, make)
