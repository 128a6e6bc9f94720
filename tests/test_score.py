from random import Random

import pytest

from continual.errors import ContinualError
from continual.sample import Message, Sample
from continual.score import METRICS, register_metric, row_scores, score


def sample(*references: str, prompt: str = "?", dialogue: str = "") -> Sample:
    messages = (Message("user", prompt), Message("assistant", references[0]))
    return Sample("t", messages, (), references, dialogue=dialogue)


def one(metric: str, prediction: str, *references: str, prompt: str = "?") -> float:
    return row_scores(metric, [prediction], [sample(*references, prompt=prompt)])[0]


@pytest.mark.parametrize(
    ("metric", "prediction", "references", "expected"),
    [
        ("acc", " A\n", ["A"], 1),
        ("acc", "a", ["A"], 0),
        # 417 is not 4.17, and 5 is not -5: numbers are not normalised.
        ("acc", "417", ["4.17"], 0),
        ("acc", "5", ["-5"], 0),
        ("acc", "", ["A"], 0),
        ("acc_letter", "B\nA bird has wings.", ["B\nSome other reason."], 1),
        ("acc_letter", "(b) because", ["B"], 1),
        # The word begins with the letter but does not stand for it.
        ("acc_letter", "Because A", ["B"], 0),
        ("acc_letter", "", ["B"], 0),
        ("acc_letter", "B因为鸟有翅膀", ["B"], 1),
        ("acc_letter", "B\u0301", ["B"], 0),
        ("exact_match", "The Cat.", ["a cat"], 1),
        ("exact_match", "cats", ["cat"], 0),
        ("exact_match", "no", ["yes", "No!"], 1),
        ("exact_match", "", ["positive"], 0),
        # An article is a word, not letters inside one.
        ("exact_match", "there", ["re"], 0),
        ("exact_match", "“早安。”", ["早安"], 1),
        # 2 shared of 3 and 2 words: 2 * 2 / 5.
        ("f1", "big red dog", ["the red dog"], 0.8),
        ("f1", "red dog", ["blue cat", "dog red"], 1),
        # A word counts as often as both have it.
        ("f1", "x x x", ["x y"], 0.4),
        ("f1", "", ["dog"], 0),
        # Other than in SQuAD's script, what is nothing but an article or punctuation is not nothing.
        ("f1", "the", ["a"], 0),
        ("f1", "", ["a"], 0),
        ("f1", "", [""], 1),
        ("exact_match", "", ["A"], 0),
        ("exact_match", "the", ["A"], 0),
        ("exact_match", "(a).", ["A"], 1),
        ("exact_match", "?", ["!"], 0),
        ("exact_match", "!", ["!"], 1),
        ("rouge_l", "...", ["..."], 1),
        ("rouge_l", "...", ["?"], 0),
        ("rouge_l", "", [""], 1),
        ("bleu", "", [""], 1),
        ("bleu", "a", [""], 0),
        # 3 shared of 4 and 4 characters.
        ("f1", "他在家里", ["他在家外"], 0.75),
        # Longest common subsequence "police the gunman" (Lin 2004): 3 of 4 and 4 words.
        ("rouge_l", "police kill the gunman", ["police killed the gunman"], 0.75),
        ("rouge_l", "the gunman kill police", ["police killed the gunman"], 0.5),
        ("rouge_l", "", ["a b"], 0),
        ("rouge_l", "她回家", ["她要回家"], 6 / 7),
        # Two Hindi words that share a letter but not its vowel sign.
        ("rouge_l", "की", ["का"], 0),
        ("rouge_l", "नमस्ते दुनिया", ["नमस्ते भारत"], 0.5),
        ("rouge_l", "😀", ["😀"], 1),
        ("rouge_l", "so good 😀", ["so good 😢"], 2 / 3),
        ("rouge_l", "5 € !", ["5 €"], 1),
        ("f1", "की", ["का"], 0),
        # 4 shared of 5 and 5 Thai letters, with their marks: ส วั ส ดี ค.
        ("f1", "สวัสดีค", ["สวัสดีก"], 0.8),
        # The same word in two encodings, composed and decomposed.
        ("rouge_l", "caf\u00e9", ["cafe\u0301"], 1),
        ("exact_match", "caf\u00e9", ["cafe\u0301"], 1),
        ("acc", "caf\u00e9", ["cafe\u0301"], 1),
        ("acc", "cafe", ["cafe\u0301"], 0),
        # No English article: a letter with a mark that has no composed form.
        ("exact_match", "a\u0336 dog", ["dog"], 0),
        # Levenshtein.ratio("kitten", "sitting"): 4 in common, 2 * 4 / 13.
        ("edit_similarity", "kitten", ["sitting"], 8 / 13),
        ("edit_similarity", "", ["abc"], 0),
        ("edit_similarity", "abc", ["xyz", "abc"], 1),
        ("code_edit_similarity", "f ( 'a' , 0 )", ["f ( '<STR_LIT:a>' , <NUM_LIT> ) "], 1),
        ("bleu", "the cat sat on the mat", ["the cat sat on the mat"], 1),
        ("bleu", "", ["the cat"], 0),
        ("bleu", "dog", ["the cat"], 0),
        # 1-grams 3/4, 2-grams 2/3, 3-grams 1/2, no 4-gram (smoothed to 1/2), no brevity penalty.
        ("bleu", "the cat sat down", ["the cat sat there"], (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25),
        # As long as it goes, but 3 tokens for 6.
        ("bleu", "the cat sat", ["the cat sat on the mat"], 2.718281828**-1),
        ("bleu", "我在家", ["我在家"], 1),
        ("turn_state_em", "area: north, food: thai; address, phone", ["food: thai, area: north; phone, address"], 1),
        ("turn_state_em", "food: Thai ;", ["food: thai;"], 1),
        # All that is informed is right, but something else is asked for.
        ("turn_state_em", "food: thai; phone", ["food: thai;"], 0),
        ("turn_state_em", "None", ["None"], 1),
        ("turn_state_em", ";", ["None"], 1),
        ("turn_state_em", "food thai;", ["None"], 0),
        # No semicolon: not a state, and not the empty state either.
        ("turn_state_em", "food: thai", ["None"], 0),
        ("turn_state_em", "nothing to do", ["None"], 0),
        # decaNLP's joint_goal_em, of a dialogue of one turn: what is asked for does not count,
        ("dsem", "food: thai; phone", ["food: thai;"], 1),
        ("dsem", "area: north, food: Thai;", ["food: thai, area: north; phone"], 1),
        ("dsem", "food: thai;", ["food: thai, area: north;"], 0),
        ("dsem", "food: thai, area: north;", ["food: thai;"], 0),
        # and what is no state changes nothing.
        ("dsem", "food thai;", ["None"], 1),
        ("dsem", "food: thai", ["None"], 1),
        ("dsem", "food: thai", ["food: thai;"], 0),
        ("dsem", "; phone; address", ["; phone"], 1),
        (
            "lf_em",
            "select team from table where player = ANN lee",
            ["SELECT Team FROM table WHERE Player = Ann Lee"],
            1,
        ),
        ("lf_em", "SELECT COUNT Team FROM table", ["SELECT Team FROM table"], 0),
        ("lf_em", "SELECT Team FROM table WHERE Age > 3", ["SELECT Team FROM table WHERE Age < 3"], 0),
        (
            "lf_em",
            "SELECT COUNT player FROM table WHERE team  AND year = 19 98",
            ["select count player from table where team and year = 1998"],
            1,
        ),
        (
            "lf_em",
            "select count player from table where team = 1998",
            ["select count player from table where team and year = 1998"],
            0,
        ),
        (
            "lf_em",
            "select where from table where b = 1",
            ["select Where from table where b = 1"],
            1,
        ),
        ("lf_em", "select a from table where b = 12", ["select a from table where b = 1 2"], 1),
        ("lf_em", "select a from table where b = 12", ["select a from table where b = 13"], 0),
        (
            "lf_em",
            "SELECT Team FROM table WHERE A = b and c AND D = e",
            ["SELECT Team FROM table WHERE A = b AND c AND D = e"],
            1,
        ),
        ("lf_em", "SELECT Team FROM table WHERE A = 1", ["SELECT Team FROM table"], 0),
        ("lf_em", "", ["SELECT Team FROM table"], 0),
        ("lf_em", "I do not know", ["SELECT Team FROM table"], 0),
    ],
)
def test_row_score_is_what_is_computed_by_hand(
    metric: str, prediction: str, references: list[str], expected: float
) -> None:
    assert one(metric, prediction, *references) == pytest.approx(expected)


def test_dsem_is_of_all_that_was_informed_so_far_in_a_dialogue() -> None:
    turns = [
        # dialogue, reference, prediction, whether the goals so far are right
        ("1", "food: thai;", "food: thai;", 1),
        ("1", "area: north; phone", "area: south;", 0),
        ("1", "; address", "None", 0),  # right for the turn, but the area is still wrong
        ("2", "food: dutch;", "; phone", 0),
        ("1", "area: east;", "area: east; postcode", 1),  # corrected by both
        ("2", "None", "food: dutch;", 1),  # said a turn late, and from then on right
        ("", "food: thai;", "None", 0),
        ("", "None", "None", 1),  # no dialogue is named: one of its own
    ]
    gold = [sample(reference, dialogue=dialogue) for dialogue, reference, _, _ in turns]
    predictions = [prediction for _, _, prediction, _ in turns]
    assert row_scores("dsem", predictions, gold) == [right for *_, right in turns]
    assert score("dsem", predictions, gold) == 4 / 8
    assert row_scores("turn_state_em", predictions, gold) == [1, 0, 0, 0, 0, 0, 0, 1]


WORDS = ["player", "team", "and", "where", "from", "count", "max", "year (a.d.)", "=", "<", "no. > 3", "की", "9"]


def query(random: Random) -> str:
    """A query of WikiSQL's form whose columns and values hold its own words."""

    def name() -> str:
        return " ".join(random.choices(WORDS, k=random.randint(1, 4)))

    head = f"SELECT {random.choice(['', 'COUNT ', 'MAX '])}{name()} FROM table"
    conditions = [f"{name()} {random.choice('=<>')} {name()}" for _ in range(random.randrange(4))]
    return head + (" WHERE " + " AND ".join(conditions) if conditions else "")


def test_any_query_is_equal_to_itself() -> None:
    random = Random(0)
    for _ in range(2000):
        text = query(random)
        assert one("lf_em", text, text) == 1, text
        assert one("lf_em", text.upper().replace(" ", "  "), text) == 1, text
        assert one("lf_em", text.replace(" FROM table", "s FROM table", 1), text) == 0, text


def test_sari_is_that_of_the_published_example() -> None:
    source = "About 95 species are currently accepted ."
    references = [
        "About 95 species are currently known .",
        "About 95 species are now accepted .",
        "95 species are now accepted .",
    ]
    # The value in the documentation of Hugging Face's evaluate.
    assert one("sari", "About 95 you now get in .", *references, prompt=source) == pytest.approx(0.26953601953601954)


def test_copying_the_source_is_no_simplification() -> None:
    text, simple = "The train was cancelled because of a storm .", "There was a storm ."
    assert one("sari", text, simple, prompt=text) < one("sari", simple, simple, prompt=text)


def test_mcc_is_matthews_correlation_of_the_whole_set() -> None:
    gold = [sample(text) for text in ("yes", "yes", "yes", "no", "no", "yes")]
    said = ["yes", "yes", "no", "no", "yes", "yes"]
    # tp 3, tn 1, fp 1, fn 1: (3 * 1 - 1 * 1) / sqrt(4 * 4 * 2 * 2).
    assert score("mcc", said, gold) == pytest.approx(0.25)
    assert score("mcc", ["yes"] * 6, gold) == 0
    assert score("mcc", [text.answer for text in gold], gold) == 1
    assert row_scores("mcc", said, gold) == [1, 1, 0, 1, 0, 1]


def test_mcc_of_an_answer_that_is_no_class_is_a_wrong_one() -> None:
    gold = [sample("yes"), sample("no")]
    # c = 1, s = 2, p = {yes: 1, maybe: 1}, t = {yes: 1, no: 1}: (2 - 1) / sqrt(2 * 2).
    assert score("mcc", ["yes", "maybe"], gold) == pytest.approx(0.5)


def test_pearson_is_the_correlation_of_the_whole_set() -> None:
    gold = [sample(text) for text in ("1", "2", "3")]
    assert score("pearson", ["2", "4", "6"], gold) == pytest.approx(1)
    # Centred: -1/3, 2/3, -1/3 with -1, 0, 1.
    assert score("pearson", ["1", "2", "1"], gold) == pytest.approx(0)
    assert score("pearson", ["3", "2", "1"], gold) == pytest.approx(-1)
    assert score("pearson", ["5", "5", "5"], gold) == 0
    assert score("pearson", ["", "2", "4"], gold) == pytest.approx(1), "an answer that is no number is 0"
    assert score("pearson", ["nan", "2", "inf"], gold) == pytest.approx(0)


def test_pearson_bears_huge_tiny_and_equal_numbers() -> None:
    gold = [sample(text) for text in ("1", "2", "4")]
    exact = score("pearson", ["1", "3", "2"], gold)
    for power in ("e200", "e-200"):
        assert score("pearson", [f"{n}{power}" for n in (1, 3, 2)], gold) == pytest.approx(exact)
    # One answer of an untaught model may be beyond all bounds: the others then weigh nothing.
    assert score("pearson", ["1", "2", "1e308"], gold) == pytest.approx(5 / 28**0.5)
    assert score("pearson", ["0.1"] * 3, gold) == 0
    third = [sample(text) for text in ("0.1", "0.7", "0.3")]
    assert score("pearson", ["0.1", "0.7", "0.3"], third) <= 1


def test_score_is_the_mean_of_the_rows() -> None:
    gold = [sample("a b"), sample("c"), sample("d")]
    assert score("f1", ["a b", "c x", ""], gold) == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_each_text_is_wholly_right_where_it_is_the_reference() -> None:
    family = "👨\u200d👩\u200d👧"
    alphabet = [*"abcde. ,;:<=>!?_-'\"\n", "the", "A", "और", "é", "e\u0301", "好", "😀", family, "ก็", "½"]
    random = Random(1)
    texts = ["".join(random.choices(alphabet, k=random.randint(1, 12))) for _ in range(1000)]
    for metric in ("acc", "exact_match", "f1", "rouge_l", "bleu", "sari", "edit_similarity", "lf_em", "dsem"):
        wrong = [text for text in texts if one(metric, text, text) != pytest.approx(1)]
        assert not wrong, (metric, wrong[:3])


def test_row_scores_lie_between_zero_and_one() -> None:
    texts = ["", "a", "the cat sat .", "food: thai; phone", "SELECT a FROM table", "3", "他在家"]
    gold = [sample(text or "x", prompt=texts[-1 - index]) for index, text in enumerate(texts)]
    for metric in METRICS:
        for turn in range(len(texts)):
            scores = row_scores(metric, texts[turn:] + texts[:turn], gold)
            assert all(0 <= value <= 1 for value in scores), metric


def test_predictions_and_samples_must_be_as_many() -> None:
    for metric in ("acc", "mcc"):
        with pytest.raises(ValueError):
            score(metric, ["a"], [sample("a"), sample("b")])


def test_unknown_metric_gets_a_suggestion() -> None:
    with pytest.raises(ContinualError, match="unknown metric 'exact_mach'; did you mean 'exact_match'?"):
        score("exact_mach", [], [])


def test_registered_metric_is_known_and_cannot_be_registered_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("continual.score.METRICS", {})
    register_metric("length", lambda prediction, _: min(1.0, len(prediction) / 10))
    assert one("length", "abcde", "x") == 0.5
    with pytest.raises(ValueError, match="already registered"):
        register_metric("length", lambda prediction, _: 0.0)
