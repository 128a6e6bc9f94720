import pytest
import tiny
import torch

from continual.decode import Decoder, Sampling, choose

PROMPTS = [[10, 20, 30], [40], [50, 60, 70, 80, 90, 100], [11, 12], [200, 201, 202, 203], [9, 9, 9, 9]]


def shaken(architecture: str) -> torch.nn.Module:
    """A model whose continuations differ from prompt to prompt."""
    model = tiny.model(architecture)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return model


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_greedy_ids_equal_generate(architecture: str) -> None:
    model = shaken(architecture).double()
    decoder = Decoder(model, [1], pad_id=0)
    for prompt, output in zip(PROMPTS, decoder.generate(PROMPTS, 12), strict=True):
        ids = torch.tensor([prompt])
        expected = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=1,
            pad_token_id=0,
        )
        assert list(output.ids) == expected[0, len(prompt) :].tolist()


def test_what_a_row_says_does_not_depend_on_its_neighbours() -> None:
    model = shaken("llama").double()
    decoder, sampling = Decoder(model, [1], 0), Sampling(temperature=1.0, top_k=20)
    together = decoder.generate(PROMPTS, 16, sampling, seeds=range(6))
    alone = [decoder.generate([p], 16, sampling, seeds=[i])[0] for i, p in enumerate(PROMPTS)]
    assert together == alone
    assert len({o.ids for o in decoder.generate([[10]] * 8, 16, sampling, seeds=range(8))}) > 4


def test_rows_stop_at_their_stop_token_and_limit() -> None:
    model = shaken("llama")
    greedy = Decoder(model, [], 0).generate(PROMPTS, 10)
    stop = greedy[0].ids[3]
    outputs = Decoder(model, [stop], 0).generate(PROMPTS, [10, 2, 10, 3, 10, 1])
    cut = greedy[0].ids.index(stop) + 1
    assert outputs[0].ids == greedy[0].ids[:cut] and outputs[0].finished
    assert [len(o.ids) for o in outputs if not o.finished] == [
        n for n, o in zip([10, 2, 10, 3, 10, 1], outputs, strict=True) if not o.finished
    ]


def test_small_batches_give_the_same_ids() -> None:
    model = shaken("gpt2").double()
    assert Decoder(model, [1], 0, batch_tokens=20).generate(PROMPTS, 8) == Decoder(model, [1], 0).generate(PROMPTS, 8)


def test_choices_are_scored_by_their_summed_log_likelihood() -> None:
    model = shaken("llama").double()
    told = Decoder(model, [1], 0).choice_logprobs([[10, 20], [30]], [[[40], [50, 60]], [[70, 80, 90]]])
    with torch.no_grad():
        log = model(input_ids=torch.tensor([[10, 20, 50, 60]])).logits[0].log_softmax(-1)
    assert told[0][1] == pytest.approx(float(log[1, 50] + log[2, 60]), abs=1e-5)
    assert [len(row) for row in told] == [2, 1]


def test_choose_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    at = lambda s, u: int(choose(logits, s, torch.tensor([u], dtype=torch.double)))  # noqa: E731
    assert at(Sampling(0.0), 0.9) == 0
    assert [at(Sampling(1.0), u) for u in (0.1, 0.6, 0.9, 0.97)] == [0, 1, 2, 3]
    # top-k 2 leaves 0.5 and 0.3: the border is at 0.625
    assert [at(Sampling(1.0, top_k=2), u) for u in (0.62, 0.63, 0.999)] == [0, 1, 1]
    # top-p 0.6 needs two tokens to reach 0.6
    assert [at(Sampling(1.0, top_p=0.6), u) for u in (0.62, 0.63, 0.999)] == [0, 1, 1]


def test_the_model_is_left_in_the_mode_it_was_in() -> None:
    model = tiny.model().train()
    Decoder(model, [1], 0).generate([[5]], 2)
    assert model.training
