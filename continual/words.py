"""How metrics see text: normalised as SQuAD does, in words; Chinese and Japanese by the character."""

import functools
import re
import string
import unicodedata

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}_]+")
_TOKEN = re.compile(rf"[{_CJK}]|[^\W{_CJK}_]+|[^\w\s]|_")


def normalised(text: str) -> str:
    """Lower case, without punctuation and English articles, single spaces (SQuAD's normalize_answer)."""
    bare = "".join(letter for letter in text.lower() if not _is_punctuation(letter))
    return " ".join(_ARTICLES.sub(" ", bare).split())


def normalised_words(text: str) -> list[str]:
    """The words of the normalised text; each Chinese or Japanese character is a word."""
    return re.sub(rf"([{_CJK}])", r" \1 ", normalised(text)).split()


def words(text: str) -> list[str]:
    """Lower-case runs of letters and digits; each Chinese or Japanese character is a word."""
    return _WORD.findall(text.lower())


def tokens(text: str) -> list[str]:
    """Words as they are written, and each punctuation mark for itself."""
    return _TOKEN.findall(text)


@functools.cache
def _is_punctuation(letter: str) -> bool:
    return letter in string.punctuation or unicodedata.category(letter).startswith("P")
