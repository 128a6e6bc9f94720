"""Text that comes bit by bit is the text that comes at once; nothing of a stop text is ever seen."""

import random

import pytest
import tiny
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from continual.serve.textstream import TextStream


def pieces_of_words() -> PreTrainedTokenizerFast:
    """A tokenizer whose words begin with a mark that is a blank, but none at the beginning of a text."""
    words = ["<unk>", "<s>", "▁the", "▁cat", "s", "▁", ".", "▁€", "<0xE2>", "<0x82>", "<0xAC>", "<0x0A>"]
    raw = Tokenizer(models.Unigram([(word, -1.0) for word in words], unk_id=0, byte_fallback=True))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", unk_token="<unk>")


def decoder(tokenizer):
    return lambda ids: tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def streamed(tokenizer, ids, stop=(), strip=False) -> list[str]:
    stream = TextStream(decoder(tokenizer), stop, strip)
    return [*(stream.add(id) for id in ids), stream.end()]


TEXTS = ["naïve café, 東京 🙂👩‍👩‍👧 ñ", "plain words and more", "a\nb\r\n\tc  d ", "éé"]


@pytest.mark.parametrize("text", TEXTS)
def test_characters_that_are_split_over_tokens_come_whole(text: str) -> None:
    tokenizer = tiny.tokenizer()
    bits = streamed(tokenizer, tokenizer(text).input_ids)
    assert "".join(bits) == text
    assert not any("\ufffd" in bit for bit in bits)
    assert sum(map(bool, bits)) > 1  # it does stream


EURO = [8, 9, 10]
"""Three bytes that are one character; of bytes that never are one this kind of tokenizer takes back what it said."""


@pytest.mark.parametrize(
    ("tokenizer", "parts"),
    [(tiny.tokenizer(), [[id] for id in range(300)]), (pieces_of_words(), [*([id] for id in range(8)), EURO, [11]])],
    ids=["bytes", "words"],
)
def test_any_ids_say_bit_by_bit_what_they_say_at_once(tokenizer, parts) -> None:
    draw = random.Random(0)
    for _ in range(300):
        ids = [id for _ in range(draw.randrange(1, 30)) for id in draw.choice(parts)]
        assert "".join(streamed(tokenizer, ids)) == decoder(tokenizer)(ids)
        assert "".join(streamed(tokenizer, ids, strip=True)) == decoder(tokenizer)(ids).strip()


def until(text: str, stop: list[str]) -> str | None:
    """What stands before the stop text that is the first to be complete."""
    for end in range(1, len(text) + 1):
        places = [place for place in (text[:end].find(s) for s in stop) if place >= 0]
        if places:
            return text[: min(places)]
    return None


def test_a_stop_text_is_never_seen_not_even_in_part() -> None:
    draw, met = random.Random(1), 0
    for _ in range(400):
        text = "".join(draw.choice("ab \n") for _ in range(draw.randrange(1, 20)))
        stop = ["".join(draw.choice("ab\n") for _ in range(draw.randrange(1, 4))) for _ in range(draw.randrange(1, 4))]
        cut = until(text, stop)
        expected = text if cut is None else cut
        stream, said = TextStream(lambda ids: "".join(map(chr, ids)), stop), ""
        for bit in [*(stream.add(ord(c)) for c in text), stream.end()]:
            said += bit
            assert expected.startswith(said)
        assert said == expected and stream.stopped == (cut is not None)
        met += stream.stopped
    assert 50 < met < 350


def test_stop_texts_end_a_text_in_the_middle_of_tokens() -> None:
    tokenizer = tiny.tokenizer()
    bits = streamed(tokenizer, tokenizer("the red dog likes the blue cat").input_ids, ["g lik", "cat"])
    assert "".join(bits) == "the red do"


def test_what_may_become_a_stop_text_waits_and_no_more_than_that() -> None:
    stream = TextStream(lambda ids: "".join(map(chr, ids)), ["<end>"])
    given = [stream.add(ord(c)) for c in "a<en<end"]
    assert given == ["a", "", "", "", "<en", "", "", ""]
    assert stream.end() == "<end" and not stream.stopped
    assert stream.starts == list(range(8))


def test_stripped_blanks_wait_for_what_follows() -> None:
    stream = TextStream(lambda ids: "".join(map(chr, ids)), strip=True)
    assert [stream.add(ord(c)) for c in "  a \nb "] == ["", "", "a", "", "", " \nb", ""]
    assert stream.end() == ""
