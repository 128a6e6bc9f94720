"""Samples to streams: only what is asked for is encoded, and once."""

from typing import Any

import tiny
from test_learn import samples

from continual.batch import Collate
from continual.chat import Chat
from continual.curriculum import benchmark, joint


class Counting(Chat):
    """Counts what it encodes."""

    encoded = 0

    def encode(self, *args: Any) -> Any:
        self.encoded += 1
        return super().encode(*args)


def test_arms_share_what_is_encoded_of_the_same_length_and_only_training_rows_are() -> None:
    chat = Counting(tiny.tokenizer())
    data = {t: {split: samples(t, "red", 4) for split in ("train", "dev", "test")} for t in ("a", "b")}
    plain = Collate(chat.bos_ids, {}, chat.end_id)
    streams = [benchmark(order, data, chat, plain, 64).train_stream for order in (["a", "b"], ["b", "a"])]
    assert chat.encoded == 8
    joined = joint(["a", "b"], data, chat, plain, 64, {"a": 1, "b": 2}).train_stream[0].dataset
    assert chat.encoded == 8 and len(joined) == 12
    assert [row["targets_task_labels"] for row in joined] == [0] * 4 + [1] * 8
    for one, other in zip(streams[0][0].dataset, streams[1][1].dataset, strict=True):
        assert (one["input_ids"] == other["input_ids"]).all()
    # A cue takes room away: these rows may be shorter, and are encoded for themselves.
    cued = Collate(chat.bos_ids, {0: chat.cue_ids("a"), 1: chat.cue_ids("b")}, chat.end_id)
    benchmark(["a"], data, chat, cued, 64)
    assert chat.encoded == 12


def test_other_streams_are_made_where_they_are_asked_for() -> None:
    chat = Chat(tiny.tokenizer())
    data = {"a": {"train": samples("a", "red", 4), "dev": samples("a", "red", 2), "test": samples("a", "red", 3)}}
    streams = benchmark(["a"], data, chat, Collate(chat.bos_ids, {}, chat.end_id), 64, ("train", "dev", "test"))
    assert [len(streams.streams[s][0].dataset) for s in ("train", "dev", "test")] == [4, 2, 3]
