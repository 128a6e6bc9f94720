import pytest
import tiny
import torch
from peft import LoraConfig, get_peft_model

from continual.decode import Decoder
from continual.fold import folded


def adapted(architecture: str, **settings):
    model = get_peft_model(
        tiny.model(architecture), LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", **settings)
    )
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.normal_(0, 0.3, generator=torch.Generator().manual_seed(len(name)))
    return model.eval()


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"use_rslora": True}], ids=["lora", "dora", "rslora"])
def test_what_is_computed_is_the_same(architecture: str, settings: dict) -> None:
    model = adapted(architecture, **settings).double()
    ids = torch.tensor([[5, 6, 7, 8]])
    calls = []
    for name, module in model.named_modules():
        if name.endswith("lora_A.default"):
            module.register_forward_hook(lambda *a: calls.append(1))
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        assert calls or settings.get("use_dora")
        calls.clear()
        with folded(model):
            got = model(input_ids=ids).logits
    assert torch.allclose(got, expected, atol=1e-12)
    assert not calls or settings.get("use_dora")  # DoRA is left as it is


def test_the_weights_are_put_back_bit_by_bit() -> None:
    model = adapted("llama")
    before = {name: p.clone() for name, p in model.state_dict().items()}
    places = {name: p.data_ptr() for name, p in model.named_parameters()}
    with pytest.raises(RuntimeError, match="on purpose"), folded(model):
        raise RuntimeError("on purpose")
    assert all(torch.equal(before[name], p) for name, p in model.state_dict().items())
    assert places == {name: p.data_ptr() for name, p in model.named_parameters()}
    assert not any(module.merged for module in model.modules() if hasattr(module, "merged_adapters"))


def test_a_tied_head_does_not_change_the_embedding() -> None:
    model = tiny.model("llama")
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["lm_head", "q_proj"])).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(0, 0.5)
        ids = torch.tensor([[5, 6, 7, 8]])
        expected = model.double()(input_ids=ids).logits
        with folded(model):
            assert torch.allclose(model(input_ids=ids).logits, expected, atol=1e-12)


def test_bfloat16_is_not_folded() -> None:
    model = adapted("llama").to(torch.bfloat16)
    with folded(model):
        assert not any(getattr(module, "merged_adapters", None) for module in model.modules())


def test_decoding_with_an_adapter_equals_generate() -> None:
    model = adapted("llama").double()
    ids = torch.tensor([[10, 20, 30]])
    expected = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=1,
        pad_token_id=0,
    )[0, 3:].tolist()
    assert list(Decoder(model, [1], 0).generate([[10, 20, 30]], 12)[0].ids) == expected
