"""SLAO, MagMax and OSF: each by hand, from end to end, and after a kill."""

import math
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from conftest import recipe, teach
from pydantic import ValidationError
from test_resume import Killed, matrices

from continual import runs
from continual.learn import CausalLMTemplate, Hyperparameters
from continual.methods.apart import ApartPlugin
from continual.methods.magmax import MagMaxPlugin
from continual.methods.osf import OSFPlugin, Subspace
from continual.methods.slao import SLAOPlugin, orthonormal
from continual.model import CausalLM, load_adapter, load_model
from continual.rehearse.teacher import weights_of
from continual.runs import read_json

THREE = ["sound", "legs", "first"]
TRAINING = {"learning_rate": 1e-2, "num_train_epochs": 2, "tokens_per_batch": 128, "max_length": 48, "save_steps": 2}
ON_ADAPTERS: dict[str, Any] = {
    "inclora": {"method": "inclora"},
    "olora": {"method": "olora"},
    "slao": {"method": "slao"},
    "merged": {"start_from": "merged", "rehearsal": {"ratio": 0.3, "max_tries": 2, "distill": {"weight": 0.5}}},
    "fresh": {"start_from": "base", "rehearsal": {"ratio": 0.3, "max_tries": 2, "distill": {"weight": 0.5}}},
}
ON_MODELS: dict[str, Any] = {"magmax": {"method": "magmax", "method_args": {"scale": 0.9}}, "osf": {"method": "osf"}}
ADAPTER = {"r": 2, "lora_dropout": 0.2}


PLACES = (
    "checkpoints/.1.removed",
    "checkpoints/.2.removed",
    "predictions/2-",
    "checkpoints/.3.removed",
    "predictions/3-",
)
"""Inside a task, past its first checkpoint; and between the saving of a model and its scores."""


def die_before(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """Die just before a file or folder of this name would have become visible."""
    replace = runs.os.replace

    def dying(source: Any, target: Any) -> None:
        if place in str(target):
            raise Killed
        replace(source, target)

    monkeypatch.setattr(runs.os, "replace", dying)


def test_an_orthonormal_basis_has_the_signs_of_a_positive_triangle() -> None:
    # A^T = Q R with R = [[5, 1], [0, 1]] and Q = [[3, -4], [4, 3], [0, 0]] / 5
    a = torch.tensor([[3.0, 4.0, 0.0], [-0.2, 1.4, 0.0]])
    torch.testing.assert_close(orthonormal(a), torch.tensor([[0.6, 0.8, 0.0], [-0.8, 0.6, 0.0]]))


def test_slao_by_hand() -> None:
    plugin = SLAOPlugin()
    names = "q.lora_A.default.weight", "q.lora_B.default.weight"
    start = plugin.start({names[0]: torch.tensor([[0.0, -2.0]]), names[1]: torch.tensor([[3.0]])})
    torch.testing.assert_close(start, {names[0]: torch.tensor([[0.0, -1.0]]), names[1]: torch.tensor([[3.0]])})
    merged = {names[0]: torch.tensor([[1.0, 1.0]]), names[1]: torch.tensor([[2.0]])}
    finetuned = {names[0]: torch.tensor([[5.0, 6.0]]), names[1]: torch.tensor([[4.0]])}
    got = plugin.merge(merged, finetuned, 3)
    assert torch.equal(got[names[0]], finetuned[names[0]])
    assert float(got[names[1]]) == pytest.approx(2 + 2 / math.sqrt(3))


@pytest.mark.parametrize(("scale", "by_hand"), [(1, [4.0, -3.0, 1.0]), (0.5, [2.5, -1.0, 1.0])])
def test_magmax_by_hand(scale: float, by_hand: list[float]) -> None:
    plugin = MagMaxPlugin(scale)
    plugin._untaught = {"w": torch.tensor([1.0, 1.0, 1.0])}
    plugin._farthest = {"w": torch.tensor([2.0, -3.0, 1.0])}  # tau_1 = 1, -4, 0
    plugin.merge({}, {"w": torch.tensor([3.0, 4.0, 1.0])}, 2)  # tau_2 = 2, 3, 0
    got = plugin.merge({}, {"w": torch.tensor([4.0, 1.0, 1.0])}, 3)  # tau_3 = 3, 0, 0
    torch.testing.assert_close(got["w"], torch.tensor(by_hand))


ROOT = math.sqrt(0.5)


@pytest.mark.parametrize(
    ("plugin", "after_first", "after_second"),
    [
        (SLAOPlugin(), [4, 1], [4 - ROOT, 1 + 4 * ROOT]),
        (MagMaxPlugin(1), [4, 1], [4, 5]),
        # Half of tau, after the first task as well: R[1][1] and BWT are of one and the same model.
        (MagMaxPlugin(0.5), [2, 0.5], [2, 2.5]),
    ],
)
def test_the_next_task_starts_from_the_finetuned_weights_and_the_merged_ones_come_out(
    plugin: ApartPlugin, after_first: list[float], after_second: list[float]
) -> None:
    class Strategy:
        class experience:
            current_experience = 0

        lm = torch.nn.Linear(2, 1, bias=False)

    def weight() -> list[float]:
        return Strategy.lm.weight.detach().flatten().tolist()

    def learn(*values: float) -> None:
        with torch.no_grad():
            Strategy.lm.weight.copy_(torch.tensor([values]))

    learn(0, 0)  # the untaught model
    for number, (begun, learnt, merged) in enumerate(
        [
            ([0, 0], [4, 1], after_first),
            ([4, 1], [3, 5], after_second),
            ([3, 5], [3, 5], None),
        ]
    ):
        Strategy.experience.current_experience = number
        plugin.after_train_dataset_adaptation(Strategy)
        assert weight() == begun
        learn(*learnt)
        plugin.after_training_exp(Strategy)
        if merged is not None:
            assert weight() == pytest.approx(merged)


def test_the_subspace_of_a_diagonal_matrix_by_hand() -> None:
    subspace = Subspace(torch.diag(torch.tensor([1.0, 5.0, 2.0])), 1)
    torch.testing.assert_close(subspace.kept, torch.diag(torch.tensor([0.0, 5.0, 0.0])))
    outside = torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 0, 1]])
    torch.testing.assert_close(subspace.outside(torch.ones(3, 3)), outside)


def test_osf_keeps_the_largest_directions_through_a_task() -> None:
    from test_learn import world as stream_of

    stream, collate = stream_of()
    settings = Hyperparameters(learning_rate=1e-2, num_train_epochs=2, tokens_per_batch=64, weight_decay=0.1)
    plugin = OSFPlugin(step=0.25)
    strategy = CausalLMTemplate(
        model=CausalLM(tiny.model()), hyperparameters=settings, seed=0, collate=collate, plugins=[plugin]
    )
    strategy.train(stream.train_stream[0], eval_streams=[])
    assert not plugin._subspaces  # the first task may change everything
    before = weights_of(strategy.lm)
    strategy.train(stream.train_stream[1], eval_streams=[])
    after = weights_of(strategy.lm)
    assert plugin._subspaces.keys() == {name for name, weight in before.items() if weight.ndim == 2}
    for name, subspace in plugin._subspaces.items():
        assert subspace.u.shape[1] == min(before[name].shape) // 4
        assert not torch.allclose(after[name], before[name], atol=1e-4), name
        torch.testing.assert_close(subspace.u.T @ after[name], subspace.u.T @ before[name], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(after[name] @ subspace.v.T, before[name] @ subspace.v.T, atol=1e-6, rtol=1e-5)


def test_slao_examines_the_merged_adapter_and_goes_on_from_the_finetuned_one(world: Path) -> None:
    from safetensors.torch import load_file

    run = teach(world, arms={"slao": {"method": "slao"}}, adapter={"r": 2}, curriculum=THREE)
    after = run / "arms/slao/seed0/after"
    merged = [load_file(after / str(i) / "adapter_model.safetensors") for i in (1, 2, 3)]
    finetuned = [
        {name.removeprefix("0/").replace(".default", ""): w for name, w in load_file(path).items()}
        for path in (after / str(i) / "methods.safetensors" for i in (1, 2, 3))
    ]
    for name in merged[0]:
        if "lora_A" in name:
            assert torch.equal(merged[2][name], finetuned[2][name])
            continue
        assert torch.equal(merged[0][name], finetuned[0][name])
        expected = merged[1][name] + (finetuned[2][name] - merged[1][name]) / math.sqrt(3)
        torch.testing.assert_close(merged[2][name], expected)
        assert not torch.allclose(merged[2][name], finetuned[2][name])
    model = load_adapter(load_model(str(world / "model")), after / "3")
    assert read_json(after / "3/adapter_config.json")["r"] == 2 and len(model.peft_config) == 1


def test_magmax_saves_the_merged_model(world: Path) -> None:
    run = teach(world, arms={"magmax": {"method": "magmax"}}, keep="all")
    base = weights_of(load_model(str(world / "model")))
    one, two = (weights_of(load_model(str(run / f"arms/magmax/seed0/after/{i}"))) for i in (1, 2))
    moved = [name for name in base if not torch.equal(one[name], two[name])]
    assert moved
    for name in base:
        assert bool(((two[name] - base[name]).abs() >= (one[name] - base[name]).abs()).all())


@pytest.mark.parametrize(
    ("arm", "adapter"), [(name, True) for name in ON_ADAPTERS] + [(name, False) for name in ON_MODELS]
)
def test_a_killed_run_ends_with_the_same_R(
    arm: str, adapter: bool, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {
        "arms": {arm: {**ON_ADAPTERS, **ON_MODELS}[arm]},
        "adapter": ADAPTER if adapter else None,
        "training": {**TRAINING, "learning_rate": 1e-2 if adapter else 3e-3},
        "curriculum": THREE,
    }
    whole = teach(world, **settings, output_dir=str(world / "whole"))
    for place in PLACES:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            die_before(patch, place)
            teach(world, **settings)
    run = teach(world, **settings)
    assert matrices(run) == matrices(whole)
    weights = "adapter_model.safetensors" if adapter else "model.safetensors"
    last = f"arms/{arm}/seed0/after/3/{weights}"
    assert (run / last).read_bytes() == (whole / last).read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": {"a": {"method": "olora"}}}, "olora works on adapters"),
        ({"arms": {"a": {"method": "magmax"}}, "adapter": {"r": 2}}, "magmax works on whole models"),
        ({"arms": {"a": {"method": "osf"}}, "adapter": {"r": 2}}, "osf works on whole models"),
        ({"arms": {"a": {"method": "olora"}}, "adapter": {"use_dora": True}}, "olora cannot do adapter.use_dora"),
        (
            {"arms": {"a": {"method": "slao"}}, "adapter": {"modules_to_save": ["lm_head"]}},
            "slao cannot do adapter.modules_to_save",
        ),
        ({"arms": {"a": {"start_from": "merged"}}}, "the recipe has no `adapter`"),
        ({"arms": {"a": {"start_from": "base", "teach": "multitask"}}, "adapter": {"r": 2}}, "only teach: sequential"),
        ({"arms": {"a": {"start_from": "base", "method": "olora"}}, "adapter": {"r": 2}}, "olora decides"),
        (
            {"arms": {"a": {"start_from": "merged"}}, "adapter": {"rank_pattern": {"q_proj": 4}}},
            "adapters with rank_pattern cannot be stacked",
        ),
        (
            {
                "arms": {
                    "s": {"teach": "specialists"},
                    "a": {"start_from": "merged", "rehearsal": {"relabel": "specialist"}},
                },
                "adapter": {"r": 2},
            },
            "not on top of earlier adapters",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(world: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        recipe(world, **changes)


def test_the_page_names_every_method_with_its_arguments_and_defaults() -> None:
    from test_docs import ROOT, default_of

    from continual.catalogue import OWN

    page = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
    page = page[page.index("## Methods of our own") : page.index("## What Avalanche has")]
    told = dict(line.strip("|").split("|")[:2] for line in page.splitlines() if line.startswith("| `"))
    told = {key.strip(" `"): value.strip() for key, value in told.items()}
    in_words = {"sdft.demonstration": "the paper's words"}
    for name, method in OWN.items():
        assert name in told and method.source.removeprefix("arXiv ") in page
    arguments = {
        f"{name}.{key}": in_words.get(f"{name}.{key}", default_of(method.arguments, key))
        for name, method in OWN.items()
        for key in method.arguments.model_fields
    }
    assert {key: value for key, value in told.items() if "." in key} == arguments
