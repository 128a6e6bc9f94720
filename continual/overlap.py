"""How much two texts share: token F1, ROUGE-L, BLEU, SARI, edit similarity. All in [0, 1]."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from continual.words import normalised_words, tokens, words

NGRAMS = 4
"""BLEU and SARI look at 1-grams to 4-grams."""

_LITERAL = re.compile(r"<(?:STR|NUM|CHAR)_LIT:(.*?)>", re.DOTALL)


def token_f1(prediction: str, reference: str) -> float:
    """F1 of the bags of normalised words (SQuAD). Two empty texts are equal."""
    ours, theirs = normalised_words(prediction), normalised_words(reference)
    if not ours or not theirs:
        return float(ours == theirs)
    return _f1((Counter(ours) & Counter(theirs)).total(), len(ours), len(theirs))


def rouge_l(prediction: str, reference: str) -> float:
    """F1 of the longest common subsequence of words (Lin 2004); of texts without words, equality."""
    ours, theirs = words(prediction), words(reference)
    if not ours and not theirs:
        return float(prediction.strip() == reference.strip())
    return _f1(_common_subsequence(ours, theirs), len(ours), len(theirs))


def edit_similarity(prediction: str, reference: str) -> float:
    """``1 - distance / (len(a) + len(b))``, where a change costs a deletion and an insertion.

    This is Levenshtein.ratio, and fuzz.ratio / 100. Two empty texts are equal.
    """
    total = len(prediction) + len(reference)
    return 2 * _common_subsequence(prediction, reference) / total if total else 1.0


def code_literals(code: str) -> str:
    """A line of CodeXGLUE code with its placeholders for literals filled in, as its own evaluation does."""
    code = code.replace("<NUM_LIT>", "0").replace("<STR_LIT>", "").replace("<CHAR_LIT>", "")
    return _LITERAL.sub(r"\1", code).strip()


def bleu(prediction: str, references: Sequence[str]) -> float:
    """Sentence BLEU-4 with sacrebleu's exponential smoothing and effective order.

    To say nothing is right only where a reference says nothing.
    """
    ours, theirs = tokens(prediction), [tokens(one) for one in references]
    logs, halvings = [], 0
    for n in range(1, min(NGRAMS, len(ours)) + 1):
        grams = _grams(ours, n)
        allowed: Counter[tuple[str, ...]] = Counter()
        for one in theirs:
            allowed |= _grams(one, n)
        matches = (grams & allowed).total()
        if n == 1 and not matches:
            return 0.0
        halvings += not matches
        logs.append(math.log((matches or 0.5**halvings) / grams.total()))
    if not logs:
        return float(not all(theirs))
    nearest = min((abs(len(one) - len(ours)), len(one)) for one in theirs)[1]
    return math.exp(min(0.0, 1 - nearest / len(ours)) + sum(logs) / len(logs))


def sari(source: str, prediction: str, references: Sequence[str]) -> float:
    """SARI of a simplification (Xu et al. 2016): mean of keep-F1, delete-precision and add-F1.

    As in Hugging Face's evaluate, which corrects the recall of kept n-grams.
    """
    texts = [[token.lower() for token in tokens(text)] for text in (source, prediction, *references)]
    sums = [0.0, 0.0, 0.0]
    for n in range(1, NGRAMS + 1):
        before, after, *theirs = (_grams(text, n) for text in texts)
        for index, part in enumerate(_sari_parts(before, after, theirs)):
            sums[index] += part / NGRAMS
    return sum(sums) / len(sums)


def _sari_parts(before: Counter, after: Counter, references: Sequence[Counter]) -> tuple[float, float, float]:
    wanted: Counter = Counter()
    for one in references:
        wanted.update(one)
    old = Counter({gram: count * len(references) for gram, count in before.items()})
    new = Counter({gram: count * len(references) for gram, count in after.items()})

    kept, keepable = old & new, old & wanted
    well_kept = kept & wanted
    keep_precision = _mean(well_kept[gram] / kept[gram] for gram in kept)
    keep_recall = well_kept.total() / keepable.total() if keepable else 1.0

    deleted = old - new
    well_deleted = deleted - wanted
    delete_precision = _mean(well_deleted[gram] / deleted[gram] for gram in deleted)

    added, addable = set(after) - set(before), set(wanted) - set(before)
    well_added = added & set(wanted)
    add_precision = len(well_added) / len(added) if added else 1.0
    add_recall = len(well_added) / len(addable) if addable else 1.0
    return _harmonic(keep_precision, keep_recall), delete_precision, _harmonic(add_precision, add_recall)


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    # As in the original: where there is nothing to keep or delete, nothing was done wrong.
    return sum(listed) / len(listed) if listed else 1.0


def _harmonic(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _f1(common: int, ours: int, theirs: int) -> float:
    return 2 * common / (ours + theirs) if common else 0.0


def _grams(texts: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(texts[start : start + n]) for start in range(len(texts) - n + 1))


def _common_subsequence(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """The length of the longest common subsequence, by bits of one integer (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for index, one in enumerate(ours):
        places[one] = places.get(one, 0) | 1 << index
    full = (1 << len(ours)) - 1
    open_places = full
    for one in theirs:
        hit = open_places & places.get(one, 0)
        open_places = ((open_places + hit) | (open_places - hit)) & full
    return len(ours) - open_places.bit_count()
