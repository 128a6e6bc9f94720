"""Each way to merge against a case computed by hand."""

import math

import pytest
import torch

from continual.merges.breadcrumbs import breadcrumbs
from continual.merges.dare import dare_linear, dare_ties
from continual.merges.della import chances, della
from continual.merges.fisher import fisher
from continual.merges.iso import iso_c
from continual.merges.knots import knots
from continual.merges.linear import linear
from continual.merges.magmax import magmax
from continual.merges.prune import magnitude_prune
from continual.merges.regmean import regmean
from continual.merges.slao import shares, slao
from continual.merges.slerp import slerp
from continual.merges.ties import ties
from continual.merges.tsv import tsv

ONES = torch.ones(2)


def matrices(*values: list[list[float]]) -> torch.Tensor:
    return torch.tensor(values)


def same(found: torch.Tensor, expected: list[list[float]]) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=found.dtype), rtol=1e-5, atol=1e-5)


PAIR = matrices([[4.0, -1.0], [2.0, 0.5]], [[-3.0, -2.0], [1.0, 0.1]])


def test_linear_is_the_weighted_sum():
    same(linear(PAIR, torch.tensor([0.5, 2.0])), [[-4.0, -4.5], [3.0, 0.45]])


def test_magnitude_prune_sums_the_largest_of_each():
    # Half of four values: 4 and 2 of the first, -3 and -2 of the second.
    same(magnitude_prune(PAIR, torch.tensor([1.0, 10.0]), 0.5), [[-26.0, -20.0], [2.0, 0.0]])


def test_ties_trims_elects_and_takes_the_mean_of_those_who_agree():
    # Left are (4, 0, 2, 0) and (-3, -2, 0, 0), whose sums are 1, -2, 2 and 0.
    same(ties(PAIR, ONES, 0.5), [[4.0, -2.0], [2.0, 0.0]])
    # Nothing trimmed: 1, -3, 3 and 0.6.
    same(ties(PAIR, ONES, 1.0), [[4.0, -1.5], [1.5, 0.3]])


def test_weights_are_shares_in_the_election_and_in_the_mean_of_ties():
    # 4 - 3 * 3 is negative now, and in the last two places the second counts three times.
    same(ties(PAIR, torch.tensor([1.0, 3.0]), 1.0), [[-3.0, -1.75], [1.25, 0.2]])
    same(ties(PAIR, torch.tensor([10.0, 30.0]), 1.0), [[-3.0, -1.75], [1.25, 0.2]])


def test_an_adapter_of_weight_zero_neither_votes_nor_counts():
    same(ties(PAIR, torch.tensor([1.0, 0.0]), 1.0), PAIR[0].tolist())


def test_a_negative_weight_turns_a_change():
    same(ties(PAIR[:1], torch.tensor([-2.0]), 1.0), (-PAIR[0]).tolist())


def test_breadcrumbs_drops_the_smallest_and_the_very_largest():
    values = matrices([[1.0, -2, 3, -4, 5], [-6, 7, -8, 9, -10]])
    # A fifth of ten values is too large (9 and 10), then three tenths stay.
    same(breadcrumbs(values, torch.ones(1), 0.3, 0.2), [[0.0, 0, 0, 0, 0], [-6, 7, -8, 0, 0]])
    # Where there is no room for that, fewer of the largest are dropped.
    same(breadcrumbs(values, torch.ones(1), 0.9, 0.2), [[1.0, -2, 3, -4, 5], [-6, 7, -8, 9, 0]])


def test_dare_keeps_a_share_and_divides_by_it():
    changes = torch.full((1, 200, 200), 3.0)
    found = dare_linear(changes, torch.ones(1), 0.25, torch.Generator().manual_seed(0))
    assert set(found.unique().tolist()) == {0.0, 12.0}
    assert (found > 0).float().mean().item() == pytest.approx(0.25, abs=0.01)


def test_dare_ties_elects_among_what_is_left():
    changes = torch.stack([torch.full((50, 50), 2.0), torch.full((50, 50), -1.0)])
    found = dare_ties(changes, ONES, 0.5, torch.Generator().manual_seed(0))
    # Only the first is left, or both, or only the second, or none.
    assert set(found.unique().tolist()) == {4.0, -2.0, 0.0}
    assert (found == 4).float().mean().item() == pytest.approx(0.5, abs=0.03)


def test_della_drops_small_values_of_a_row_sooner():
    rows = matrices([[3.0, -1.0, 2.0, 0.5], [0.1, 0.2, 0.3, 0.4]])
    # p = 0.5, so the chances of being dropped are 0.3, 0.4, 0.5 and 0.6 from the largest down.
    same(chances(rows, 0.5, 0.4)[0], [[0.7, 0.5, 0.6, 0.4], [0.4, 0.5, 0.6, 0.7]])


def test_della_divides_by_the_chance_to_stay():
    row = matrices([[4.0, 1.0]])
    drawn = [della(row, torch.ones(1), 0.5, 0.5, torch.Generator().manual_seed(seed))[0] for seed in range(400)]
    # p is 0.25 for the larger and 0.5 for the smaller.
    first, second = torch.stack(drawn).T
    assert {round(value, 4) for value in first.tolist()} == {0.0, round(4 / 0.75, 4)}
    assert set(second.tolist()) == {0.0, 2.0}
    assert first.mean().item() == pytest.approx(4, abs=0.4)


def test_slerp_goes_along_the_circle():
    changes = matrices([[2.0, 0.0]], [[0.0, 3.0]])
    same(slerp(changes, ONES), [[2 * math.sqrt(0.5), 3 * math.sqrt(0.5)]])
    angle = math.pi / 8
    same(slerp(changes, torch.tensor([1.0, 3.0])), [[2 * math.sin(angle), 3 * math.cos(angle)]])


def test_slerp_of_parallel_changes_is_the_straight_line():
    same(slerp(matrices([[1.0, 2.0]], [[3.0, 6.0]]), ONES), [[2.0, 4.0]])


def test_magmax_takes_what_is_farthest_from_zero():
    same(magmax(PAIR, ONES), [[4.0, -2.0], [2.0, 0.5]])
    same(magmax(matrices([[1.0]], [[-1.0]]), ONES), [[1.0]])


def test_tsv_turns_singular_vectors_apart_evenly():
    # Left vectors 60 degrees apart: the nearest right angle turns each by 15. The right vectors are orthogonal.
    def u(degrees: float) -> torch.Tensor:
        return torch.tensor([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])

    e = torch.eye(2)
    changes = torch.stack([5 * torch.outer(u(0), e[0]), 2 * torch.outer(u(60), e[1])])
    expected = 5 * torch.outer(u(-15), e[0]) + 2 * torch.outer(u(75), e[1])
    same(tsv(changes, ONES), expected.tolist())


def test_tsv_of_two_equal_changes_is_that_change():
    same(tsv(torch.stack([PAIR[0], PAIR[0]]), ONES), PAIR[0].tolist())


def test_iso_c_makes_all_singular_values_their_mean():
    u, s, vh = iso_c(matrices([[3.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), ONES)
    same((u * s) @ vh, [[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]])


def test_iso_c_cut_to_a_rank_keeps_the_directions_of_the_largest_values():
    u, s, vh = iso_c(matrices([[1.0, 0.0], [0.0, 3.0]]), torch.ones(1))
    same((u * s)[:, :1] @ vh[:1], [[0.0, 0.0], [0.0, 2.0]])


def test_knots_elects_in_the_space_that_all_share():
    u = torch.tensor([0.6, 0.8])
    first, second = torch.tensor([4.0, -1.0, 2.0]), torch.tensor([-3.0, -2.0, 1.0])
    changes = torch.stack([torch.outer(u, first), torch.outer(u, second)])
    same(knots(changes, ONES, 1.0), torch.outer(u, torch.tensor([4.0, -1.5, 1.5])).tolist())
    # The largest two of the three values of each: (4, 0, 2) and (-3, -2, 0).
    same(knots(changes, ONES, 0.7), torch.outer(u, torch.tensor([4.0, -2.0, 2.0])).tolist())


def test_slao_takes_the_ith_in_with_one_over_its_root():
    assert shares(1) == [1.0]
    assert shares(2) == pytest.approx([1 - math.sqrt(0.5), math.sqrt(0.5)])
    left = 1 - 1 / math.sqrt(3)
    assert shares(3) == pytest.approx([left * (1 - math.sqrt(0.5)), left * math.sqrt(0.5), 1 / math.sqrt(3)])


def test_slao_is_the_papers_merge_of_b_where_all_share_a():
    from continual.methods.slao import SLAOPlugin

    draw = torch.Generator().manual_seed(0)
    a, bs = torch.randn(2, 5, generator=draw), torch.randn(3, 4, 2, generator=draw)
    name, merged = "x.lora_B.weight", bs[0]
    for i, b in enumerate(bs[1:], 2):
        merged = SLAOPlugin().merge({name: merged}, {name: b}, i)[name]
    torch.testing.assert_close(slao(bs @ a, torch.ones(3)), merged @ a)


def test_regmean_weighs_inputs_by_how_strong_they_are():
    changes = matrices([[4.0, 4.0]], [[0.0, 8.0]])
    grams = torch.stack([torch.diag(torch.tensor([1.0, 3.0])), torch.diag(torch.tensor([3.0, 1.0]))])
    same(regmean(changes, ONES, 0.9, grams), [[1.0, 5.0]])


def test_regmean_sees_inputs_that_go_together():
    changes = matrices([[1.0, 0.0]], [[0.0, 1.0]])
    grams = matrices([[2.0, 1.0], [1.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]])
    # Halved off the diagonal: (2, 1.5) times the inverse of ((3, 0.5), (0.5, 3)).
    same(regmean(changes, ONES, 0.5, grams), [[0.6, 0.4]])


def test_regmean_says_nothing_of_an_input_that_was_never_there():
    grams = torch.stack([torch.diag(torch.tensor([1.0, 0.0]))] * 2)
    same(regmean(matrices([[2.0, 1.0]], [[4.0, 1.0]]), ONES, 0.9, grams), [[3.0, 0.0]])


def test_fisher_weighs_each_value_by_its_information():
    changes, information = matrices([[4.0, 4.0]], [[0.0, 8.0]]), matrices([[1.0, 3.0]], [[3.0, 1.0]])
    same(fisher(changes, ONES, information), [[1.0, 5.0]])
    same(fisher(changes, torch.tensor([3.0, 1.0]), information), [[2.0, 4.4]])


def test_fisher_takes_the_mean_where_nobody_knows_anything():
    same(fisher(matrices([[4.0]], [[0.0]]), torch.tensor([3.0, 1.0]), torch.zeros(2, 1, 1)), [[3.0]])
