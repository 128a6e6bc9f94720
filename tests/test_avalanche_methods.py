"""Avalanche's methods in a recipe: each teaches with an adapter and with full weights, and survives a kill."""

from pathlib import Path
from typing import Any

import pytest
from conftest import make_world, teach
from test_resume import ADAPTER, TRAINING, Killed, die_at, matrices

from continual import checkpoint
from continual.catalogue import METHODS
from continual.runs import read_json

ARGUMENTS: dict[str, dict[str, Any]] = {
    "ewc": {"lambda": 10},
    "ewc_online": {"lambda": 10, "importance_samples": 20},
    "si": {"lambda": 1e4},
    "mas": {"lambda": 1, "importance_samples": 20},
    "rwalk": {"delta_t": 3},
    "lwf": {},
    "agem": {"patterns_per_experience": 10, "sample_size": 8},
    "replay": {"mem_size": 12},
}
"""Strong enough for the tiny tasks to feel."""

THREE = ["sound", "legs", "first"]


def arm(name: str) -> dict[str, Any]:
    return {name: {"method": name, "method_args": ARGUMENTS[name]}}


def weights(run: Path, name: str, number: int) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(next((run / f"arms/{name}/seed0/after/{number}").glob("*model.safetensors")))


def equal(some: dict[str, Any], others: dict[str, Any]) -> bool:
    import torch

    return all(torch.equal(some[key], others[key]) for key in some)


@pytest.fixture(scope="module", params=[None, ADAPTER], ids=["whole", "adapter"])
def taught(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A world, settings of two tasks that get in each other's way, and a run of them without any method."""
    world = make_world(tmp_path_factory.mktemp("world"))
    training = {**TRAINING, "num_train_epochs": 4, "save_steps": None}
    settings = {"adapter": request.param, "training": training, "curriculum": ["legs", "first"], "keep": "all"}
    return world, settings, teach(world, arms={"plain": {}}, **settings, output_dir=str(world / "plain"))


@pytest.mark.parametrize("name", ARGUMENTS)
def test_each_method_teaches_and_changes_what_is_learnt(name: str, taught: Any) -> None:
    world, settings, plain = taught
    run = teach(world, arms=arm(name), **settings, output_dir=str(world / name))
    record = read_json(run / f"arms/{name}/seed0/run.json")
    assert len(record["R"]) == 3 and None not in record["R"][2]
    assert (record["cost"]["real_rows_kept"] > 0) == METHODS[name].keeps_rows
    same = [equal(weights(plain, "plain", n), weights(run, name, n)) for n in (1, 2)]
    # Before anything is learnt there is nothing to remember. (The one forward pass of LwF may round otherwise.)
    assert same == [True, False] or name == "lwf" and not same[1]


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_killed_run_ends_with_the_same_bytes(name: str, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"arms": arm(name), "adapter": ADAPTER, "training": TRAINING, "curriculum": THREE}
    whole = teach(world, **settings, output_dir=str(world / "whole"))
    restored: list[Path] = []
    restore = checkpoint.restore
    monkeypatch.setattr(checkpoint, "restore", lambda *args: (restored.append(args[0]), restore(*args)))
    deaths = 0
    for nth in (14, 10, 12, 8, 25, 1000):  # some inside a task, some between two
        with monkeypatch.context() as patch:
            die_at(patch, nth)
            try:
                run = teach(world, **settings)
                break
            except Killed:
                deaths += 1
    assert deaths >= 3 and any(int(path.name) > 1 for path in restored)  # inside a task that has earlier ones
    assert matrices(run) == matrices(whole)
    assert all(equal(weights(whole, name, n), weights(run, name, n)) for n in (1, 2, 3))


@pytest.mark.parametrize("name", ARGUMENTS)
def test_each_method_goes_together_with_rehearsal(name: str, world: Path) -> None:
    both = {"rehearsal": {"ratio": 0.3, "max_tries": 1, "checks": ["parses"]}, **arm(name)[name]}
    run = teach(world, arms={"both": both}, adapter={"r": 2})
    told = read_json(run / "arms/both/seed0/run.json")
    assert len(told["R"]) == 3 and [entry["task"] for entry in told["rehearsed"]] == ["sound"]
    assert (told["cost"]["real_rows_kept"] > 0) == METHODS[name].keeps_rows == (told["cost"]["stored_bytes"] > 0)
