import pytest
import torch
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from continual.sampling import Sampling, choose, penalise

DRAWS = torch.linspace(0, 1, 401, dtype=torch.double)[:-1]


def drawn(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """How often each token of one row is drawn by evenly spaced draws, (vocab,)."""
    tokens = choose(logits.expand(len(DRAWS), -1), sampling, DRAWS)
    return torch.bincount(tokens, minlength=logits.shape[-1]) / len(DRAWS)


def test_choose_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    at = lambda s, u: int(choose(logits, s, torch.tensor([u], dtype=torch.double)))  # noqa: E731
    assert at(Sampling(0.0), 0.9) == 0
    assert [at(Sampling(1.0), u) for u in (0.1, 0.6, 0.9, 0.97)] == [0, 1, 2, 3]
    # top-k 2 leaves 0.5 and 0.3: the border is at 0.625
    assert [at(Sampling(1.0, top_k=2), u) for u in (0.62, 0.63, 0.999)] == [0, 1, 1]
    # top-p 0.6 needs two tokens to reach 0.6
    assert [at(Sampling(1.0, top_p=0.6), u) for u in (0.62, 0.63, 0.999)] == [0, 1, 1]
    # min-p 0.4 keeps what is at least 0.2 likely: the same two
    assert [at(Sampling(1.0, min_p=0.4), u) for u in (0.62, 0.63, 0.999)] == [0, 1, 1]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(0.7),
        Sampling(1.3, top_k=7),
        Sampling(0.8, top_p=0.7),
        Sampling(1.5, min_p=0.2),
        Sampling(0.9, top_k=40, top_p=0.8, min_p=0.05),
        Sampling(3.0, top_p=0.97),  # needs more tokens than are looked at first
    ],
)
@pytest.mark.parametrize("vocabulary", [50, 2000])
def test_the_distribution_is_that_of_transformers(sampling: Sampling, vocabulary: int) -> None:
    logits = 3 * torch.randn(1, vocabulary, generator=torch.Generator().manual_seed(3))
    warped = TemperatureLogitsWarper(sampling.temperature)(None, logits)
    if sampling.top_k:
        warped = TopKLogitsWarper(sampling.top_k)(None, warped)
    if sampling.top_p < 1:
        warped = TopPLogitsWarper(sampling.top_p)(None, warped)
    if sampling.min_p:
        warped = MinPLogitsWarper(sampling.min_p)(None, warped)
    expected = warped.softmax(-1)[0]
    got = drawn(logits, sampling)
    assert float((got - expected).abs().max()) <= 1.01 / len(DRAWS)
    assert not (got[expected == 0] > 0).any()


def test_a_draw_just_below_one_never_picks_what_was_cut() -> None:
    logits = torch.randn(64, 100, generator=torch.Generator().manual_seed(0))
    last = torch.full((64,), 1 - 2**-53, dtype=torch.double)
    tokens = choose(logits, Sampling(1.0, min_p=0.3), last)
    kept = logits.softmax(-1) >= 0.3 * logits.softmax(-1).amax(-1, keepdim=True)
    assert bool(kept.gather(1, tokens[:, None]).all())


def test_the_penalty_is_that_of_transformers() -> None:
    logits = torch.randn(1, 30, generator=torch.Generator().manual_seed(0))
    seen = [3, 7, 7, 29]
    expected = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([seen]), logits.clone())
    penalise(logits[0], seen, 1.3)
    assert torch.equal(logits, expected)
