import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from continual.batch import Collate
from continual.chat import Encoded
from continual.data import Rows, TokenBatches, ahead, cuts, dataset

CUES = {0: [90, 91], 1: [92]}


def rows(lengths: list[int], label: int = 0) -> list[dict[str, Any]]:
    """Rows whose first token tells which row they are."""
    return [
        {
            "input_ids": [i + 100, *([7] * (n - 1))],
            "answer": [0] * (n - 2) + [1, 1],
            "length": n,
            "lead": 0,
            "targets_task_labels": label,
            "cue_key": label,
            "rehearsed": 0,
        }
        for i, n in enumerate(lengths)
    ]


def as_dataset(rows: list[dict[str, Any]], collate: Collate) -> Any:
    return dataset(Rows(Encoded(r["input_ids"], r["answer"], False) for r in rows), 0, collate)


def seen(batches: TokenBatches) -> list[list[int]]:
    """Row numbers of each step."""
    steps = []
    for x, _, _ in batches:
        steps.append([int(t) - 100 for b in x.step for t in b.input_ids[:, 0]])
    return steps


def test_one_pass_gives_a_cued_row_both_losses() -> None:
    collate = Collate([1], CUES, pad_id=0)
    x, y, t = collate([{**rows([4])[0], "cue": True}])
    assert x.input_ids.tolist() == [[1, 90, 91, 100, 7, 7, 7]]
    assert y.tolist() == [100, 7, 7, 7]  # every token after the cue
    assert x.cued.tolist() == [1, 1, 1, 1]
    assert x.answer.tolist() == [0, 0, 1, 1]
    assert t.tolist() == [0, 0, 0, 0]


def test_a_row_without_cue_bears_answer_loss_only() -> None:
    x, y, _ = Collate([1], CUES, pad_id=0)([{**rows([4])[0], "cue": False}])
    assert x.input_ids.tolist() == [[1, 100, 7, 7, 7]]
    assert y.tolist() == [7, 7] and x.cued.tolist() == [0, 0]


def test_two_passes_write_each_sample_twice_as_lamol_does() -> None:
    x, y, _ = Collate([], CUES, pad_id=0, passes="two")([{**rows([4])[0], "cue": True}])
    assert x.input_ids.tolist() == [[100, 7, 7, 7, 0, 0], [90, 91, 100, 7, 7, 7]]
    # The question's answer without the cue, then the whole sample after it; no answer loss twice.
    assert x.answer.tolist() == [1, 1, 0, 0, 0, 0]
    assert x.cued.tolist() == [0, 0, 1, 1, 1, 1]
    assert x.tokens == 10


def batches(lengths: list[int], **more: Any) -> TokenBatches:
    settings = {"seed": 3, "tokens_per_batch": 64, **more}
    collate = Collate([], {}, 0)
    return TokenBatches(as_dataset(rows(lengths), collate), collate, **settings)


LENGTHS = [int(n) for n in np.random.default_rng(0).integers(4, 30, 200)]


def test_an_epoch_takes_every_row_once_in_equal_steps() -> None:
    b = batches(LENGTHS)
    steps = seen(b)
    assert sorted(i for step in steps for i in step) == list(range(200))
    assert len(steps) == len(b)
    tokens = [sum(LENGTHS[i] for i in step) for step in steps]
    assert max(tokens) <= 64 + 30 and min(tokens) >= 64 - 40


def test_epochs_differ_and_repeat_exactly() -> None:
    b = batches(LENGTHS)
    first = seen(b)
    b.epoch = 1
    second = seen(b)
    b.epoch = 0
    assert first != second and first == seen(b)


def test_skipping_steps_goes_on_where_a_stopped_epoch_was() -> None:
    b = batches(LENGTHS)
    whole = seen(b)
    b.skip = 5
    assert seen(b) == whole[5:]
    assert seen(b) == whole


def test_almost_nothing_is_computed_for_padding() -> None:
    b = batches(LENGTHS, tokens_per_batch=2048)
    padded = real = 0
    for x, _, _ in b:
        padded += sum(m.input_ids.numel() for m in x.step)
        real += sum(m.tokens for m in x.step)
    assert padded / real < 1.15


@pytest.mark.parametrize("pass_tokens", [0, 5, 40, 10_000])
def test_no_other_cuts_would_cost_less(pass_tokens: int) -> None:
    lengths = np.sort(np.random.default_rng(1).integers(4, 60, 9))

    def cost(places: Sequence[int]) -> int:
        return sum(pass_tokens + len(part) * part[-1] for part in np.split(lengths, places))

    every = [p for n in range(len(lengths)) for p in combinations(range(1, len(lengths)), n)]
    assert cost(cuts(lengths, pass_tokens)) == min(map(cost, every))


def test_ranks_share_each_step_and_take_equally_many() -> None:
    whole = seen(batches(LENGTHS, tokens_per_batch=128))
    parts = [seen(batches(LENGTHS, tokens_per_batch=64, rank=r, ranks=2)) for r in (0, 1)]
    assert len(parts[0]) == len(parts[1]) == len(whole)
    for one, two, both in zip(*parts, whole, strict=True):
        assert sorted(one + two) == sorted(both)


def test_rows_and_accumulation_make_micro_batches_of_one_step() -> None:
    b = batches(LENGTHS, tokens_per_batch=None, rows_per_batch=4, accumulation=3)
    sizes = [[len(m) for m in x.step] for x, _, _ in b]
    assert sizes[0] == [4, 4, 4] and len(b) == 17
    assert sum(map(sum, sizes)) == 200


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_cue_dropout_is_the_share_of_rows_without_cue(dropout: float) -> None:
    collate = Collate([], CUES, 0)
    data = as_dataset(rows(LENGTHS), collate)
    b = TokenBatches(data, collate, seed=1, tokens_per_batch=512, cue_dropout=dropout)
    cued = sum(int((m.input_ids[:, 0] == 90).sum()) for x, _, _ in b for m in x.step)
    assert cued == 200 if dropout == 0 else 70 < cued < 130


def test_a_whole_step_in_one_forward_where_a_plugin_asks_for_it() -> None:
    assert all(len(x.step) == 1 for x, _, _ in batches(LENGTHS, tokens_per_batch=1024, whole=True))


def test_rows_come_back_as_they_were_encoded_also_from_sums_and_parts_of_data_sets() -> None:
    from avalanche.benchmarks.utils import concat_datasets

    collate = Collate([1], CUES, 0)
    one, two = rows([3, 5, 4]), rows([6, 2], label=1)
    second = dataset(Rows(Encoded(r["input_ids"], r["answer"], False) for r in two), 1, collate)
    whole = concat_datasets([as_dataset(one, collate), second])
    for data, expected in ((whole, [*one, *two]), (whole.subset([4, 0]), [two[1], one[0]])):
        assert list(data.row_length) == [row["length"] for row in expected]
        for row, like in zip(data, expected, strict=True):
            assert row["input_ids"].tolist() == like["input_ids"] and row["answer"].tolist() == like["answer"]
            assert row["targets_task_labels"] == like["targets_task_labels"]


@pytest.mark.parametrize("passes", ["one", "two"])
@pytest.mark.parametrize("parts", [1, 2, 3, 99])
def test_a_batch_is_split_by_rows_with_all_that_belongs_to_them(parts: int, passes: Any) -> None:
    collate = Collate([1], CUES, 0, passes)
    some = [{**row, "cue": i % 2 == 0} for i, row in enumerate(rows([4, 9, 6, 7, 5]))]
    x, y, _ = collate(some)
    cut = x.split(y, parts)
    assert len(cut) <= parts and max(len(batch) for batch, _ in cut) == -(-len(x) // parts)
    assert sum(len(batch) for batch, _ in cut) == len(x) and sum(batch.tokens for batch, _ in cut) == x.tokens
    for name in ("answer", "cued"):
        assert torch.equal(torch.cat([getattr(batch, name) for batch, _ in cut]), getattr(x, name))
    assert torch.equal(torch.cat([labels for _, labels in cut]), y)
    for batch, labels in cut:  # each part still tells where its tokens are, and carries no more padding than needed
        assert torch.equal(batch.input_ids[:, 1:][batch.supervised], labels)
        assert batch.input_ids.shape[1] == max(batch.lengths)


def test_items_made_ahead_come_in_their_order_and_the_next_is_made_while_one_is_in_use() -> None:
    second_made = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        second_made.set()
        yield from range(1, 20)

    got = []
    for item in ahead(items()):
        assert second_made.wait(10)
        got.append(item)
    assert got == list(range(20))


def test_what_goes_wrong_while_a_batch_is_made_is_raised_where_it_is_used() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("broken row")

    made_ahead = ahead(items())
    assert next(made_ahead) == 1
    with pytest.raises(KeyError, match="broken row"):
        next(made_ahead)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, RuntimeError])
def test_the_thread_ends_where_batches_are_not_read_to_the_end(error: type[BaseException] | None) -> None:
    def stop_early() -> None:
        with closing(ahead(iter(int, 1))) as items:  # without end
            for _ in items:
                assert any(t.name.startswith("next-batch") for t in threading.enumerate())
                if error is not None:
                    raise error
                break

    if error is None:
        stop_early()
    else:
        with pytest.raises(error):
            stop_early()
    for _ in range(100):
        if not any(t.name.startswith("next-batch") for t in threading.enumerate()):
            break
        time.sleep(0.01)
    assert not any(t.name.startswith("next-batch") for t in threading.enumerate())


def test_batches_made_ahead_are_the_same_to_the_last_bit() -> None:
    b = batches(LENGTHS, tokens_per_batch=512)
    for (x, y, t), (other, other_y, other_t) in zip(list(b), ahead(b), strict=True):
        assert torch.equal(y, other_y) and torch.equal(t, other_t) and len(x.step) == len(other.step)
        for one, two in zip(x.step, other.step, strict=True):
            assert torch.equal(one.input_ids, two.input_ids) and torch.equal(one.answer, two.answer)


def test_in_each_epoch_other_rows_take_their_turn() -> None:
    # Rows 0 to 3 are always there; of the six others, two are in each of three turns.
    turns = [np.array([4, 5]), np.array([6, 7]), np.array([8, 9])]
    cut = batches([3] * 10, tokens_per_batch=None, rows_per_batch=2, turns=turns)
    assert len(cut) == 3
    for cut.epoch in range(4):
        assert sorted(sum(seen(cut), [])) == [0, 1, 2, 3, *turns[cut.epoch % 3]]


def test_steps_are_as_many_in_every_epoch_though_turns_differ_in_length() -> None:
    turns = [np.array([2, 3]), np.array([4, 5])]
    cut = batches([10, 10, 2, 2, 30, 30], tokens_per_batch=20, turns=turns)
    assert len(cut) == 3  # (20 + 4) and (20 + 60) tokens: 52 on average
    for cut.epoch in range(2):
        assert len(seen(cut)) == 3
