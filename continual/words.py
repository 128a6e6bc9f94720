"""How metrics see text: normalized as SQuAD does, and in words, in any script.

A letter has its combining marks with it (``की`` is one letter and one word). Of the scripts that
put no spaces between words, each letter is a word. So is each symbol and emoji outside ASCII, with
all that joins it: a flag, a skin tone, a family. Two ways to write the same character are the same.
"""

import functools
import string
import unicodedata

import regex

# Those of Chinese, Japanese, Thai, Lao, Khmer and Burmese; the long-vowel marks are of no script.
_SPACELESS = r"[\p{Han}\p{Hiragana}\p{Katakana}\u30FC\uFF70\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
_MARKS = r"[\p{M}\u200C\u200D]*"
_LETTER = rf"[[\p{{L}}\p{{N}}]&&{_SPACELESS}]\p{{M}}*"
_RUN = rf"(?:[[\p{{L}}\p{{N}}]--{_SPACELESS}]{_MARKS})+"
# ASCII's own symbols, such as + and $, count as punctuation, as for SQuAD; full-width ones too.
_SYMBOL = r"(?=[\p{S}--[\x00-\x7F\uFF01-\uFF5E]]|[#*]\uFE0F?\u20E3)\X"

_ARTICLE = regex.compile(r"(?<![\w\p{M}])(?:a|an|the)(?![\w\p{M}])", regex.V1)
_SPACELESS_LETTER = regex.compile(_LETTER, regex.V1)
_WORD = regex.compile(f"{_LETTER}|{_RUN}|{_SYMBOL}", regex.V1)
_TOKEN = regex.compile(rf"{_LETTER}|{_RUN}|(?!\s)\X", regex.V1)


def canonical(text: str) -> str:
    """Write each character in its one canonical form (NFC)."""
    return unicodedata.normalize("NFC", text)


def normalised(text: str) -> str:
    """Lower-case a text and take out punctuation, English articles and spare spaces (SQuAD).

    Unlike SQuAD's, it leaves something of every text: the option ``A`` is no article, and a text of
    punctuation alone stays as it is.
    """
    letters = canonical(text.lower())
    bare = "".join(letter for letter in letters if not _is_punctuation(letter))
    return " ".join(_ARTICLE.sub(" ", bare).split() or bare.split() or letters.split())


def normalised_words(text: str) -> list[str]:
    """Split a normalized text at spaces, and around each letter of scripts without spaces."""
    return _SPACELESS_LETTER.sub(r" \g<0> ", normalised(text)).split()


def words(text: str) -> list[str]:
    """List the words of a text in lower case, without punctuation."""
    return _WORD.findall(canonical(text.lower()))


def tokens(text: str) -> list[str]:
    """List the words of a text as they are written, and each punctuation mark by itself."""
    return _TOKEN.findall(canonical(text))


@functools.cache
def _is_punctuation(letter: str) -> bool:
    return letter in string.punctuation or unicodedata.category(letter).startswith("P")
