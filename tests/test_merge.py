"""Merging adapters: core space loses nothing, one adapter stays itself, and what does not fit is refused."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from continual.errors import ContinualError
from continual.lora import Factors, Lora
from continual.merge import changes, fold, merge
from continual.merges import MERGES

SHAPES = {"up": (40, 24), "down": (24, 40)}
WITHOUT_DATA = [name for name, known in MERGES.items() if known.statistics is None]
NOTHING_DROPPED = {"density": 1.0, "gamma": 0.0, "epsilon": 0.0}


def adapter(seed: int, rank: int = 4, modules: Sequence[str] = ("up", "down"), base: str | None = "m") -> Lora:
    draw = torch.Generator().manual_seed(seed)
    factors = {
        name: Factors(
            torch.randn(rank, SHAPES[name][1], generator=draw), torch.randn(SHAPES[name][0], rank, generator=draw)
        )
        for name in modules
    }
    return Lora(base, factors, tuple(sorted(modules)))


def delta(lora: Lora, name: str) -> torch.Tensor:
    a, b = lora.factors[name]
    return b @ a


def whole(method: str) -> dict[str, float]:
    """Arguments with which a method drops nothing."""
    return {key: value for key, value in NOTHING_DROPPED.items() if key in MERGES[method].arguments.model_fields}


def several(method: str) -> list[Lora]:
    """Adapters of different ranks that touch different modules."""
    return [adapter(0), adapter(1, 2), adapter(2, 3, ["up"])][: MERGES[method].at_most]


@pytest.mark.parametrize("method", [name for name in WITHOUT_DATA if MERGES[name].coordinates in ("any", "outputs")])
def test_core_space_gives_what_the_weights_themselves_give(method: str):
    adapters = several(method)
    core, full = dict(changes(adapters, method)), dict(changes(adapters, method, space="full"))
    assert core.keys() == full.keys() == {"up", "down"}
    for name, change in core.items():
        torch.testing.assert_close(change, full[name], rtol=1e-5, atol=1e-5 * full[name].abs().max().item())


@pytest.mark.parametrize("space", ["core", "full"])
@pytest.mark.parametrize("method", [name for name in WITHOUT_DATA if name != "iso_c"])
def test_one_adapter_with_weight_one_is_that_adapter(method: str, space: Any):
    one = adapter(0)
    found = merge([one], method, [1.0], space=space, **whole(method))
    assert found.kept == pytest.approx(1)
    for name in SHAPES:
        torch.testing.assert_close(delta(found.lora, name), delta(one, name), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", WITHOUT_DATA)
@pytest.mark.parametrize("space", ["core", "full"])
def test_it_does_not_matter_how_a_change_was_factored(method: str, space: Any):
    adapters = several(method)
    turn = torch.randn(4, 4, generator=torch.Generator().manual_seed(5)) + 3 * torch.eye(4)
    other = Lora(
        "m", {n: Factors(turn @ a, b @ torch.linalg.inv(turn)) for n, (a, b) in adapters[0].factors.items()}, ()
    )
    one, two = (dict(changes([first, *adapters[1:]], method, space=space)) for first in (adapters[0], other))
    for name, change in one.items():
        # Where chance decides, signs of axes may turn which values it hits; the values themselves may not.
        torch.testing.assert_close(two[name], change, rtol=1e-3, atol=1e-3 * change.abs().max().item())


@pytest.mark.parametrize(
    "method", ["linear", "ties", "magnitude_prune", "breadcrumbs", "magmax", "tsv", "iso_c", "knots"]
)
def test_the_order_of_the_adapters_does_not_matter(method: str):
    adapters = several(method)
    one, two = dict(changes(adapters, method)), dict(changes(adapters[::-1], method))
    for name, change in one.items():
        torch.testing.assert_close(two[name], change, rtol=1e-4, atol=1e-4 * change.abs().max().item())


def test_the_sum_is_kept_as_far_as_the_rank_goes():
    adapters = [adapter(0), adapter(1)]
    exact = sum(delta(one, "up") for one in adapters) / 2
    found = merge(adapters, "linear", rank=8)
    torch.testing.assert_close(delta(found.lora, "up"), exact, rtol=1e-5, atol=1e-5)
    assert found.kept == pytest.approx(1)
    u, s, vh = torch.linalg.svd(exact)
    cut = merge(adapters, "linear", rank=3)
    torch.testing.assert_close(delta(cut.lora, "up"), (u[:, :3] * s[:3]) @ vh[:3], rtol=1e-4, atol=1e-4)
    assert cut.modules["up"] == pytest.approx(float((s[:3] ** 2).sum() / (s**2).sum()), abs=1e-6)
    assert cut.lora.rank == 3


def test_the_total_counts_modules_by_their_energy():
    adapters = [adapter(0), adapter(1)]
    found = merge(adapters, "linear", rank=2)
    energy = {name: sum(delta(one, name) for one in adapters).square().sum().item() / 4 for name in SHAPES}
    expected = sum(found.modules[name] * energy[name] for name in SHAPES) / sum(energy.values())
    assert found.kept == pytest.approx(expected, abs=1e-5)


def test_the_result_is_as_large_as_the_largest_adapter_unless_a_rank_is_given():
    assert merge([adapter(0, 2), adapter(1, 4)], "linear").lora.rank == 4


@pytest.mark.parametrize("space", ["core", "full"])
def test_a_module_that_an_adapter_leaves_alone_changes_by_zero(space: Any):
    found = merge([adapter(0), adapter(1, modules=["up"])], "linear", rank=8, space=space)
    torch.testing.assert_close(delta(found.lora, "down"), delta(adapter(0), "down") / 2, rtol=1e-5, atol=1e-5)
    assert found.lora.targets == ("down", "up")


@pytest.mark.parametrize("method", WITHOUT_DATA)
def test_adapters_that_were_never_taught_change_nothing(method: str):
    fresh = Lora("m", {"up": Factors(torch.randn(4, 24), torch.zeros(40, 4))}, ("up",))
    found = merge([fresh, fresh], method)
    assert delta(found.lora, "up").abs().max() == 0
    assert found.lora.rank == 4


@pytest.mark.parametrize("method", WITHOUT_DATA)
def test_a_scale_multiplies_the_merged_change(method: str):
    adapters = several(method)
    one, two = dict(changes(adapters, method)), dict(changes(adapters, method, scale=-0.5))
    torch.testing.assert_close(two["up"], -0.5 * one["up"])


@pytest.mark.parametrize("method", [name for name, known in MERGES.items() if known.random])
def test_chance_is_that_of_the_seed(method: str):
    adapters = several(method)
    one, again, other = (dict(changes(adapters, method, seed=seed))["up"] for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_a_running_merge_needs_only_two_adapters_at_a_time():
    adapters = [adapter(seed) for seed in range(3)]
    once = merge(adapters, "slao", rank=12).lora
    folded = adapters[0]
    for n, newest in enumerate(adapters[1:], 2):
        folded = fold(folded, newest, n, rank=12).lora
    torch.testing.assert_close(delta(folded, "up"), delta(once, "up"), rtol=1e-4, atol=1e-4)
    assert fold(adapters[0], adapters[1], 2).lora.rank == 4


def test_statistics_reach_the_method():
    adapters = [adapter(0, modules=["up"]), adapter(1, modules=["up"])]
    grams = [{"up": torch.eye(24)}, {"up": 3 * torch.eye(24)}]
    found = merge(adapters, "regmean", rank=8, statistics=grams)
    expected = (delta(adapters[0], "up") + 3 * delta(adapters[1], "up")) / 4
    torch.testing.assert_close(delta(found.lora, "up"), expected, rtol=1e-4, atol=1e-4)
    information = [{"up": torch.ones(40, 24)}, {"up": 3 * torch.ones(40, 24)}]
    found = merge(adapters, "fisher", rank=8, statistics=information)
    torch.testing.assert_close(delta(found.lora, "up"), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("adapters", "method", "options", "named"),
    [
        ([], "linear", {}, "no adapter"),
        ([adapter(0)], "linea", {}, "did you mean 'linear'"),
        ([adapter(0), adapter(1), adapter(2)], "linear", {"weights": [0.5, 0.5]}, "2 for 3 adapters"),
        ([adapter(0), adapter(1, base="another")], "linear", {}, "different base models"),
        ([adapter(0), adapter(1), adapter(2)], "slerp", {}, "merges 2 adapters"),
        ([adapter(0)], "ties", {"density": 0}, "density"),
        ([adapter(0)], "ties", {"densty": 0.5}, "did you mean 'density'"),
        ([adapter(0)], "linear", {"density": 0.5}, "density: unknown"),
        ([adapter(0)], "linear", {"rank": 0}, "rank"),
        ([adapter(0)], "linear", {"space": "cor"}, "space"),
        ([adapter(0)], "linear", {"weights": [float("nan")]}, "finite"),
        ([adapter(0), adapter(1)], "ties", {"weights": [0, 0]}, "all are 0"),
        ([adapter(0), adapter(1)], "slerp", {"weights": [-1, 2]}, "shares"),
        ([adapter(0)], "regmean", {}, "gram statistics"),
        ([adapter(0)], "fisher", {"statistics": [{"up": torch.ones(40, 24)}]}, "know nothing of down"),
        ([adapter(0, modules=["up"])], "regmean", {"statistics": [{"up": torch.ones(40, 24)}]}, "not .24, 24."),
        (
            [adapter(0), Lora("m", {"up": Factors(torch.ones(2, 8), torch.ones(40, 2))}, ("up",))],
            "linear",
            {},
            "up is",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_is_refused(adapters: list[Lora], method: str, options: dict[str, Any], named: str):
    with pytest.raises(ContinualError, match=named):
        merge(adapters, method, **options)
