"""The raw text that the base model of the micro-world reads: train-side propositions, never a task's format.

It repeats itself on purpose: the same in the other language, the same told by somebody else, questions about
what was just said. So a small model learns to copy, to align the two languages and to look things up.
"""

import random
from collections.abc import Callable, Iterator
from itertools import count

from world import (
    WORDS,
    Fact,
    Who,
    act,
    deed,
    feelings,
    join,
    on,
    passage,
    person,
    place_en,
    question,
    statement,
    story,
    thing,
    upper,
)

LANGUAGES = ("en", "zh")
PRIMER = 30_000
"""In so many texts the share of word lists would fall from all to none; it starts at 0.7 and stops at 0.1."""
FORMS = ("role", "animal", "thing", "verb", "act")
"""The kinds of words whose form says the same as the word itself."""
SYLLABLES = [first + second for first in "bdfgklmnprstvz" for second in "aeiou"]


def documents(seed: int) -> Iterator[str]:
    """Documents without end. Neighbours often belong together: a text, then its translation or retelling."""
    rng = random.Random(seed)
    pages: list[Callable[[random.Random], list[str]]] = [sentences, told, asked, moods]
    for number in count():
        # Word lists come first, as in a primer: they are the shortest way to copying and to translating.
        primer = max(0.1, 0.7 - number / PRIMER)
        page = lists if rng.random() < primer else rng.choices(pages, (27, 16, 48, 9))[0]
        parts = page(rng)
        # Half of the time the parts are documents of their own: the end of one does not end the subject.
        yield from parts if rng.random() < 0.5 else ["\n".join(parts)]


def lists(rng: random.Random) -> list[str]:
    """A list of words and phrases, in no order, and the same in the other language or once more."""
    entries = [entry(rng) for _ in range(rng.randint(1, 10))]
    said = {"en": " ".join(english for english, _ in entries), "zh": "".join(chinese for _, chinese in entries)}
    return [said[language] for language in languages(rng, 2)]


def entry(rng: random.Random) -> tuple[str, str]:
    """A word, a thing, a place or a person, in English and Chinese."""
    kind = rng.choice(("word", "word", "thing", "place", "person"))
    if kind == "thing":
        return (some_thing := thing(rng)).en, some_thing.zh
    if kind == "place":
        return place_en(somewhere := rng.choice(WORDS["place"])), somewhere.zh
    if kind == "person":
        return (who := person(rng)).en, who.zh
    word = rng.choice(WORDS[rng.choice(list(WORDS))])
    return rng.choice((word.en, word.form)) if word.form and word.kind in FORMS else word.en, word.zh


def sentences(rng: random.Random) -> list[str]:
    """A few sentences, said again and again: in the other language, or by somebody."""
    facts = [some(rng) for _ in range(rng.choice((1, 1, 2, 2, 3)))]
    parts = []
    for language in languages(rng, rng.choice((2, 3, 4))):
        text = join([fact.say(language) for fact in facts], language)
        parts.append(quote(speaker(rng), text, language) if rng.random() < 0.3 else text)
    return parts


def told(rng: random.Random) -> list[str]:
    """A story in full, then in full again or only its main deed, which somebody tells somebody."""
    one = story(rng, "train")
    first, *others = languages(rng, rng.choice((2, 3)))
    parts = [join(one.tell(first), first)]
    for language in others:
        if rng.random() < 0.4:
            parts.append(join(one.tell(language), language))
            continue
        news = one.short().say(language)
        if one.end and rng.random() < 0.2:
            news = join([news, one.end.say(language, one.end.who.again())], language)
        parts.append(quote(speaker(rng), news, language) if rng.random() < 0.6 else news)
    return parts


def asked(rng: random.Random) -> list[str]:
    """Some facts, and two who ask and answer about them, shortly or in a full sentence."""
    facts = passage(rng, "train", rng.choice((1, 2, 2, 2, 3)))
    language = rng.choice(LANGUAGES)
    parts = [join([fact.say(language) for fact in facts], language)]
    if rng.random() < 0.3:
        language = rng.choice(LANGUAGES)
        parts.append(join([fact.say(language) for fact in facts], language))
    manner = rng.choice((quoted, dashed, in_a_line))
    already: set[str] = set()
    for _ in range(rng.choice((3, 4, 5, 6))):
        fact = rng.choice(facts)
        words, short = question(rng, fact, language)
        if words in already:
            continue
        already.add(words)
        reply = fact.say(language)[:-1] if rng.random() < 0.2 else short
        parts += manner(rng, words, reply, language)
    return parts


def quoted(rng: random.Random, words: str, reply: str, language: str) -> list[str]:
    """Question and answer as two people say them."""
    reply = f"{upper(reply)}{'.' if language == 'en' else '。'}"
    return [quote(speaker(rng), words, language, asks=True), quote(speaker(rng), reply, language)]


def dashed(rng: random.Random, words: str, reply: str, language: str) -> list[str]:
    """Question and answer as in a play."""
    return [f"- {words}", f"- {upper(reply)}{'.' if language == 'en' else '。'}"]


def in_a_line(rng: random.Random, words: str, reply: str, language: str) -> list[str]:
    """Question and answer in one line, the answer in the middle of it."""
    if language == "en":
        return [f"{words} {upper(speaker(rng).en)} knows: {reply}."]
    return [f"{words}{speaker(rng).zh}知道：{reply}。"]


def moods(rng: random.Random) -> list[str]:
    """What somebody does, how they feel and what they do then."""
    who, mood = person(rng), rng.choice(("good", "bad", ""))
    facts = [on("train", lambda: deed(rng, who))]
    felt = feelings(who, mood, "train")
    facts += rng.sample(felt, min(len(felt), 1))
    facts.append(on("train", lambda: act(rng, who, mood)))
    return [
        join([fact.say(language, who.again() if i else None) for i, fact in enumerate(facts)], language)
        for language in languages(rng, rng.choice((1, 2)))
    ]


def some(rng: random.Random) -> Fact:
    """A train-side fact, now and then about somebody with a name that no lexicon has."""
    fact = statement(rng, "train")
    if rng.random() < 0.04:
        name = upper("".join(rng.sample(SYLLABLES, 3)))
        return on("train", lambda: deed(rng, Who(name, name, "she")))
    return fact


def speaker(rng: random.Random) -> Who:
    while (who := person(rng)).pronoun == "it":
        pass
    return who


def languages(rng: random.Random, n: int) -> list[str]:
    """So many languages in turn; the next one is more often the other one than the same again."""
    chosen = [rng.choice(LANGUAGES)]
    while len(chosen) < n:
        other = LANGUAGES[1 - LANGUAGES.index(chosen[-1])]
        chosen.append(other if rng.random() < 0.6 else chosen[-1])
    return chosen


def quote(who: Who, words: str, language: str, asks: bool = False) -> str:
    if language == "en":
        return f'{upper(who.en)} {"asks" if asks else "says"}: "{words}"'
    return f"{who.zh}{'问' if asks else '说'}：“{words}”"
