from typing import Any

import numpy as np
import pytest

from continual.batch import Collate
from continual.data import TokenBatches

CUES = {0: [90, 91], 1: [92]}


def rows(lengths: list[int], label: int = 0) -> list[dict[str, Any]]:
    """Rows whose first token tells which row they are."""
    return [
        {
            "input_ids": [i + 100, *([7] * (n - 1))],
            "answer": [0] * (n - 2) + [1, 1],
            "length": n,
            "targets_task_labels": label,
        }
        for i, n in enumerate(lengths)
    ]


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
    return TokenBatches(rows(lengths), Collate([], more.pop("cues", {}), 0), **settings)


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
    b = TokenBatches(rows(LENGTHS), Collate([], CUES, 0), seed=1, tokens_per_batch=512, cue_dropout=dropout)
    cued = sum(int((m.input_ids[:, 0] == 90).sum()) for x, _, _ in b for m in x.step)
    assert cued == 200 if dropout == 0 else 70 < cued < 130


def test_a_whole_step_in_one_forward_where_a_plugin_asks_for_it() -> None:
    assert all(len(x.step) == 1 for x, _, _ in batches(LENGTHS, tokens_per_batch=1024, whole=True))
