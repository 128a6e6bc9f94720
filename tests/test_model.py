from pathlib import Path

import pytest
import tiny
import torch

from continual.batch import Collate
from continual.errors import ContinualError
from continual.model import CausalLM, add_adapter, load_model, load_tokenizer, max_positions

ROWS = [
    {
        "input_ids": list(range(10, 10 + n)),
        "answer": [0] * 3 + [1] * (n - 3),
        "targets_task_labels": 0,
        "cue_key": 0,
        "rehearsed": 0,
    }
    for n in (5, 9)
]


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES + tiny.MORE_ARCHITECTURES)
def test_logits_at_supervised_positions_equal_full_logits(architecture: str) -> None:
    # Scaling (Granite, Cohere) and soft caps (Gemma-2) come after the output embeddings: picking rows before them
    # must not lose them.
    inner = tiny.model(architecture)
    x, y, _ = Collate([], {}, 0)(ROWS)
    with torch.no_grad():
        full = inner(input_ids=x.input_ids).logits[:, :-1][x.supervised]
        picked = CausalLM(inner)(x)
    assert picked.shape == (len(y), inner.config.vocab_size)
    torch.testing.assert_close(picked, full, atol=1e-5, rtol=1e-5)


def test_a_head_that_is_called_the_decoder_is_computed_whole(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    x, y, _ = Collate([], {}, 0)(ROWS)
    weight = torch.ones(len(y)) / len(y)
    whole = CausalLM(tiny.model("modernbert-decoder"))(x, y, weight)
    monkeypatch.setattr("continual.model.CHUNK", 10)
    for architecture, notices in (("modernbert-decoder", 1), ("gpt_oss", 0)):
        caplog.clear()
        loss = CausalLM(tiny.model(architecture))(x, y, weight)
        loss.backward()
        assert caplog.text.count("cannot be computed in chunks") == notices
        if notices:
            torch.testing.assert_close(loss, whole)


def test_the_facade_shows_trainable_parameters_only() -> None:
    facade = CausalLM(add_adapter(tiny.model(), {"r": 2, "target_modules": "all-linear"}, seed=0))
    names = [name for name, _ in facade.named_parameters()]
    assert names and all("lora_" in name for name in names)
    assert sum(1 for _ in facade.parameters()) == len(names)


def test_an_adapter_begins_the_same_for_the_same_seed() -> None:
    settings = {"r": 2, "target_modules": "all-linear"}
    one, two, other = (dict(add_adapter(tiny.model(), settings, s).named_parameters()) for s in (1, 1, 2))
    name = next(n for n in one if "lora_A" in n)
    assert torch.equal(one[name], two[name]) and not torch.equal(one[name], other[name])


def test_a_model_that_is_not_there_is_named_with_a_way_out() -> None:
    with pytest.raises(ContinualError, match=r"cannot load 'no/such'.*local folder"):
        load_model("no/such")
    with pytest.raises(ContinualError, match="there is no embedded model 'builtin:nothing'"):
        load_tokenizer("builtin:nothing")


def test_max_positions_knows_gpt2s_name_for_it(tmp_path) -> None:  # type: ignore[no-untyped-def]
    assert max_positions(str(tiny.saved(tmp_path, "gpt2"))) == 128


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_base_keeps_its_own_precision_where_the_processor_has_it(
    native: bool, expected: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from continual import model as models

    tiny.model().to(torch.bfloat16).save_pretrained(tmp_path)
    monkeypatch.setattr(models, "has_bfloat16", lambda device: native)
    assert load_model(str(tmp_path)).dtype == expected
    assert load_model(str(tmp_path), "float32").dtype == torch.float32
