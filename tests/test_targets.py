"""Adapters on mixtures of experts and latent attention: what all-linear changes, and who can use it afterwards."""

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from continual import lora
from continual.adapters import AdapterBank
from continual.batch import Collate
from continual.decode import Decoder
from continual.errors import ContinualError
from continual.model import CausalLM, add_adapter, load_adapter
from continual.patterns import Patterns
from continual.targets import notices

ALL = {"r": 4, "lora_alpha": 64, "target_modules": "all-linear"}
SOME = {**ALL, "target_modules": ["q_proj"]}
PROMPTS = [[40, 50, 60, 70], [41, 51], [42, 52, 62]]
ROWS = [
    {
        "input_ids": list(range(10, 10 + n)),
        "answer": [0] * 3 + [1] * (n - 3),
        "targets_task_labels": 0,
        "cue_key": 0,
        "rehearsed": 0,
    }
    for n in (5, 9, 7)
]


def taught(architecture: str, settings: dict[str, Any], seed: int) -> Any:
    """A tiny model with an adapter that has learned something, and then much at random."""
    model = add_adapter(tiny.model(architecture), settings, seed)
    facade = CausalLM(model)
    x, y, _ = Collate([], {}, 0)(ROWS)
    optimizer = torch.optim.AdamW(list(facade.parameters()), lr=1e-3)
    losses = []
    for _ in range(2):
        loss = facade(x, y, torch.ones(len(y)) / len(y))
        losses.append(loss.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[1] < losses[0]
    with torch.no_grad():
        for parameter in facade.parameters():
            parameter.normal_(std=0.3)
    return model.eval()


def answers(model: Any, bank: AdapterBank | None = None, who: Any = None) -> list[list[int]]:
    decoder = Decoder(model, [], 0, adapters=bank)
    return [list(output.ids) for output in decoder.generate(PROMPTS, 6, adapters=who)]


@pytest.mark.parametrize("architecture", [*tiny.EXPERTS, "youtu"])
def test_what_all_linear_has_taught_is_used_everywhere_alike(tmp_path: Path, architecture: str) -> None:
    expected = {}
    for name, seed in (("one", 1), ("two", 2)):
        model = taught(architecture, ALL, seed)
        assert all(".self_attn." in n or ".mlp." in n for n, p in model.named_parameters() if p.requires_grad)
        model.save_pretrained(tmp_path / name)
        expected[name] = answers(model)
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    for prompt, ids in zip(PROMPTS, expected["two"], strict=True):  # transformers' own cache and loop say the same
        written = model.generate(input_ids=torch.tensor([prompt]), **settings)
        assert written[0, len(prompt) :].tolist() == ids
    base = tiny.model(architecture)
    untaught = answers(base)
    assert untaught != expected["one"] != expected["two"]
    assert len({word for ids in expected["one"] for word in ids}) > 3
    bank = AdapterBank(base)
    for name in expected:
        bank.load(name, tmp_path / name)
    # One for all rows; each row its own; more rows than adapters, side by side.
    assert answers(base, bank, ["one"] * 3) == expected["one"]
    mixed = answers(base, bank, ["two", None, "one"])
    assert mixed == [expected["two"][0], untaught[1], expected["one"][2]]
    many = Decoder(base, [], 0, adapters=bank).generate(PROMPTS * 4, 6, adapters=["one", "two"] * 6)
    assert [list(output.ids) for output in many] == [expected[("one", "two")[n % 2]][n % 3] for n in range(12)]
    # What is read, merged or exported is that adapter, and PEFT alone loads it.
    lora.save(lora.load(tmp_path / "one"), tmp_path / "again")
    assert answers(load_adapter(tiny.model(architecture), tmp_path / "again").eval()) == expected["one"]


@pytest.mark.parametrize("architecture", ["qwen3_moe", "mixtral", "gpt_oss"])
def test_experts_that_are_asked_for_are_taught_and_saved(tmp_path: Path, architecture: str) -> None:
    model = taught(architecture, {**ALL, "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}, 1)
    model.save_pretrained(tmp_path)
    assert any(".experts." in name for name, p in model.named_parameters() if p.requires_grad)
    again = load_adapter(tiny.model(architecture), tmp_path).eval()
    assert answers(again) == answers(model) != answers(tiny.model(architecture))


@pytest.mark.parametrize("architecture", tiny.EXPERTS)
def test_experts_that_stay_as_they_are_are_told_of(architecture: str) -> None:
    (line,) = notices(tiny.model(architecture), ALL)
    assert "all-linear adapts" in line and "q_" in line and "experts.gate_up_proj" in line
    assert notices(tiny.model(architecture), {**ALL, "target_parameters": ["experts.down_proj"]}) == []
    assert notices(tiny.model("llama"), ALL) == []


@pytest.mark.parametrize(
    ("architecture", "changes", "said"),
    [
        (
            "llama",
            {"target_modules": ["q_prj", "v_proj"]},
            r"target_modules: 'q_prj' is no module.*did you mean 'q_proj'",
        ),
        ("llama", {"target_modules": ["embed_tokens"]}, "'embed_tokens' is no linear module of LlamaForCausalLM"),
        ("llama", {"modules_to_save": ["nope"]}, "modules_to_save: 'nope' is no module"),
        ("llama", {"target_parameters": ["nope"]}, "target_parameters: 'nope' is no parameter"),
        ("llama", {"rank_pattern": {"qproj": 2}}, "rank_pattern: 'qproj' matches no module that is adapted"),
        ("llama", {**SOME, "alpha_pattern": {"v_proj": 2}}, "alpha_pattern: 'v_proj' matches no module"),
        ("llama", {"alpha_pattern": {"(": 2}}, "alpha_pattern: '\\(' is no regular expression"),
        ("qwen3_moe", {"target_modules": ["q_proj", "down_proj"]}, "'down_proj' is of the experts.*target_parameters"),
        ("mixtral", {"target_parameters": ["experts.up"]}, "there is experts.down_proj, experts.gate_up_proj"),
    ],
)
def test_what_matches_nothing_is_refused(architecture: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ContinualError, match=said):
        add_adapter(tiny.model(architecture), {**ALL, **changes}, 0)


def test_every_name_that_matches_nothing_has_its_line() -> None:
    wrong = {**ALL, "target_modules": ["nope", "q_proj"], "modules_to_save": ["no", "none"]}
    with pytest.raises(ContinualError) as error:
        add_adapter(tiny.model(), wrong, 0)
    assert len(error.value.lines) == 3


@pytest.mark.parametrize("pattern", [r"((\w|\.)*)*Z", "(.{1,9}){1,40}[QZ]", "(?:.|.)+(?!.*)"])
def test_a_hostile_pattern_costs_a_second_and_no_more(tmp_path: Path, pattern: str) -> None:
    taught("llama", ALL, 1).save_pretrained(tmp_path)
    config = tmp_path / lora.CONFIG
    config.write_text(json.dumps({**json.loads(config.read_text()), "alpha_pattern": {pattern: 3}}))
    begun = time.process_time()
    # The engine sees through some of them, and is stopped at the others.
    with contextlib.suppress(ContinualError):
        lora.load(tmp_path)
    assert time.process_time() - begun < 3


def test_a_pattern_that_takes_too_long_is_named() -> None:
    with pytest.raises(ContinualError, match="alpha_pattern: '.*' takes too long to match"):
        Patterns("alpha_pattern", ["(.{1,9}){1,40}[QZ]"]).first("model.layers.0.self_attn.q_proj")
