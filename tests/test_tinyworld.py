"""The micro-world: its two languages, its skills, and that a test row is always something new."""

import importlib
import re
import sys
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from continual.paths import builtin_model, shipped
from continual.task import Task, find_task

SKILLS = ("translate", "edit", "summarize", "answer", "answer_zh", "sentiment")
Modules = tuple[ModuleType, ModuleType]
HOME = shipped("tasks") / "tinyworld"


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Modules:
    """world.py and raw.py; the one imports the other as a neighbour."""
    monkeypatch.syspath_prepend(str(HOME))
    found = importlib.import_module("world"), importlib.import_module("raw")
    for name in ("world", "raw"):
        monkeypatch.delitem(sys.modules, name)
    return found


def propositions(text: str, world: ModuleType) -> set[tuple[str, str, str, str]]:
    """What an English text states: who, does, what, where. A pronoun means the first subject."""
    verbs = {word.form: word.en for kind in ("verb", "act") for word in world.WORDS[kind]}
    verbs |= {word: word for word in verbs.values()} | {"is": "be", "are": "be"}
    nouns = {form: word.en for kind in ("thing", "animal") for word in world.WORDS[kind] for form in word[1:3]}
    feelings = {word.en for word in world.WORDS["feeling"]}
    places = "|".join(word.en for word in world.WORDS["place"])
    stated, first = set(), ""
    for sentence in re.findall(r"[^.?!:\"\n]+\.", text):
        words = sentence.removesuffix(".").strip()
        words = words.removeprefix("At last ")
        found = re.search(rf"(?: |^)(?:in|at|on|by) the ({places})\b", words)
        place = found[1] if found else ""
        words = words[: found.start()] if found else words
        parts = words.split()
        at = next((i for i, part in enumerate(parts) if part in verbs and i > 0), None)
        if at is None:
            continue
        who = " ".join(parts[:at]).lower()
        first = first or who
        subject = first if who in ("he", "she", "it", "they") else who
        thing = next((nouns[part] for part in parts[at + 1 :] if part in nouns), "")
        mood = next((part for part in parts[at + 1 :] if part in feelings), "")
        stated.add((subject, verbs[parts[at]], thing or mood, place))
    return stated


def english(skill: str, row: dict[str, str]) -> str:
    if skill in ("edit", "summarize"):
        return row["target"].removesuffix(".") + "."
    return row.get("text") or row["passage"]


@pytest.mark.parametrize("skill", ["translate", "edit", "summarize", "answer", "sentiment"])
def test_no_test_proposition_is_stated_in_train_or_in_the_raw_text(skill: str, modules: Modules) -> None:
    world, raw = modules
    read = {split: [english(skill, row) for row in getattr(world, skill)(split, 400)] for split in ("train", "test")}
    tested = {fact for text in read["test"] for fact in propositions(text, world)}
    taught = {fact for text in read["train"] for fact in propositions(text, world)}
    told = {fact for text in islice(raw.documents(3), 12_000) for fact in propositions(text, world)}
    assert len(tested) > 100 and len(told) > 3_000
    assert not tested & taught
    assert not tested & told


def test_the_reader_of_propositions_sees_a_leak(modules: Modules) -> None:
    # The test above would pass for ever if its reader found nothing in common texts.
    world, _ = modules
    one = propositions("Tom sees two red balls in the park today.", world)
    other = propositions('Tom smiles. At last he sees a ball in the park.\nAnna says: "Lily is sad."', world)
    assert one == {("tom", "see", "ball", "park")}
    assert one < other and ("lily", "be", "sad", "") in other


def test_both_languages_say_the_same(modules: Modules) -> None:
    world, _ = modules
    word = {word.en: word for words in world.WORDS.values() for word in words}
    who = world.Who("the girls", "女孩们", "they")
    fact = world.Fact(
        who,
        word["wash"],
        world.Thing(word["umbrella"], 1, word["old"]),
        word["bridge"],
        word["in the morning"],
    )
    assert fact.en() == "The girls wash an old umbrella on the bridge in the morning."
    assert fact.zh() == "女孩们早上在桥上洗一把旧雨伞。"
    assert world.Thing(word["dog"], 2, word["red"]).zh == "两只红色的狗"


@pytest.mark.parametrize("skill", SKILLS)
def test_rows_are_the_same_each_time_and_all_different(skill: str, modules: Modules) -> None:
    world, _ = modules
    kwargs: dict[str, Any] = {"language": "zh"} if skill == "answer_zh" else {}
    make = getattr(world, skill.removesuffix("_zh"))
    rows = make("test", 150, **kwargs)
    assert rows == make("test", 150, **kwargs)
    assert rows[:20] == make("test", 20, **kwargs)
    assert len({tuple(list(row.values())[:-1]) for row in rows}) == 150


def test_broken_sentences_are_broken(modules: Modules) -> None:
    rows = modules[0].edit("train", 300)
    assert all(row["text"] != row["target"] for row in rows)
    broken = " ".join(row["text"] for row in rows)
    assert re.search(r"\ban [^aeiou\W]", broken) and re.search(r"\btwo \w+[^s\W]\b", broken)


def test_headlines_say_who_did_what_at_last_and_where(modules: Modules) -> None:
    for row in modules[0].summarize("train", 50):
        who, place = re.match(r"(.+?) is (\w+ the \w+)\.", row["text"]).groups()  # type: ignore[union-attr]
        verb = re.search(r"At last \w+ (\w+)", row["text"])
        assert verb and row["target"].startswith(f"{who} {verb[1]} ") and row["target"].endswith(place)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_answers_stand_in_the_passage(language: str, modules: Modules) -> None:
    for row in modules[0].answer("train", 50, language):
        assert row["target"].lower() in row["passage"].lower()


def literal_words(task: Task) -> set[str]:
    """The words of a task's wordings that do not come from its rows."""
    wordings = [task.doc_to_text] if isinstance(task.doc_to_text, str) else task.doc_to_text
    fixed = " ".join(re.sub(r"{{.*?}}", " ", wording) for wording in wordings)
    return set(re.findall(r"\w{3,}|\w+：", fixed))


def test_the_raw_text_has_no_instruction_and_no_label(modules: Modules) -> None:
    text = "\n".join(islice(modules[1].documents(1), 5_000))
    words = {word for skill in SKILLS for word in literal_words(find_task(skill))}
    shared = {word for word in words if re.search(rf"\b{word}", text)} - {"the", "and"}
    assert len(words) > 20 and not shared


def test_every_prompt_is_short_and_made_of_whole_words() -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(builtin_model("tinyworld") / "tokenizer.json"))
    for skill in SKILLS:
        for sample in find_task(skill).samples("test", limit=100):
            for message in sample.messages:
                encoding = tokenizer.encode(message.content)
                assert len(encoding.ids) <= 64
                spelt = [token for token in encoding.tokens if len(token) == 1 and token.isalpha()]
                assert not set(spelt) - {"a", "Ċ"}  # the latter is how bytes spell a line break


def test_the_base_model_is_small_and_knows_both_languages(modules: Modules) -> None:
    from continual.guard import guard

    guard()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = builtin_model("tinyworld")
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 6_000_000
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.float32
    assert sum(parameter.numel() for parameter in model.parameters()) <= 3_000_000
    # A test-side sentence, so nothing that was read: the Chinese after the English must be nearly certain.
    losses = []
    for row in modules[0].translate("test", 20):
        english_ids = tokenizer(f"{row['text']}\n").input_ids
        ids = torch.tensor([english_ids + tokenizer(row["target"]).input_ids])
        with torch.no_grad():
            logits = model(ids).logits[0, len(english_ids) : -1]
        losses.append(torch.nn.functional.cross_entropy(logits, ids[0, len(english_ids) + 1 :]).item())
    assert sum(losses) / len(losses) < 0.3


def test_the_recipe_of_the_base_model_names_the_raw_text() -> None:
    from continual.pretrain import load_pretrain_recipe

    corpus = load_pretrain_recipe(Path(shipped("recipes") / "tinyworld-base.yaml")).pretrain.corpus
    assert corpus.file and corpus.file.resolve() == (HOME / "raw.py").resolve()
    assert next(corpus.documents(0))
