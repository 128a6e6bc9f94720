import pytest
import tiny
import torch

from continual.decode import Decoder
from continual.errors import ContinualError
from continual.request import Request
from continual.sampling import Sampling

PROMPTS = [[10, 20, 30], [40], [50, 60, 70, 80, 90, 100], [11, 12], [200, 201, 202, 203], [9, 9, 9, 9]]


def shaken(architecture: str) -> torch.nn.Module:
    """A model whose continuations differ from prompt to prompt."""
    model = tiny.model(architecture)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return model


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES + tiny.MORE_ARCHITECTURES)
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


def test_the_model_is_left_in_the_mode_it_was_in() -> None:
    model = tiny.model().train()
    Decoder(model, [1], 0).generate([[5]], 2)
    assert model.training


def one_by_one(model, prompts, limit, **arguments):
    """What `generate` says to each prompt alone."""
    said = []
    for prompt in prompts:
        ids = torch.tensor([list(prompt)])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=limit,
            do_sample=False,
            pad_token_id=0,
            **arguments,
        )
        said.append(out[0, len(prompt) :].tolist())
    return said


def many(count: int, longest: int, seed: int = 0) -> list[list[int]]:
    """Prompts of different lengths; every third begins like the one before."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda high: int(torch.randint(1, high, (1,), generator=generator))  # noqa: E731
    prompts: list[list[int]] = []
    for i in range(count):
        head = prompts[-1][: len(prompts[-1]) // 2] if i % 3 == 2 else []
        prompts.append(head + [draw(300) for _ in range(draw(longest))])
    return prompts


@pytest.mark.parametrize("max_rows", [1, 3, 7, 64])
def test_rows_that_join_later_say_the_same(max_rows: int) -> None:
    model = shaken("llama").double()
    prompts = many(40, 12)
    outputs = Decoder(model, [1], 0, max_rows=max_rows).generate(prompts, 70)
    assert len({len(o.ids) for o in outputs}) > 1  # some end early: places become free
    for said, output in zip(one_by_one(model, prompts, 70, eos_token_id=1), outputs, strict=True):
        assert list(output.ids) == said


def test_a_prompt_longer_than_all_at_work_may_join() -> None:
    model = shaken("qwen2").double()
    prompts = many(6, 5) + [[7] * 40] + many(6, 5, seed=1)
    decoder = Decoder(model, [], 0, max_rows=4)
    numbers = [decoder.add(Request(prompt, 5 + i)) for i, prompt in enumerate(prompts)]
    ids = {number: [] for number in numbers}
    with torch.no_grad():
        model.eval()
        while decoder.busy:
            for event in decoder.step():
                ids[event.number].append(event.id)
    for i, (number, said) in enumerate(zip(numbers, one_by_one(model, prompts, 20, eos_token_id=-1), strict=True)):
        assert ids[number] == said[: 5 + i]


def test_what_memory_held_before_never_reaches_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    model = shaken("llama").double()
    empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda self, *shape: empty(self, *shape).fill_(float("nan")))
    prompts = [[7] * (1 + 5 * (i % 3)) + [i] for i in range(9)] + [[5], [6]]
    outputs = Decoder(model, [], 0, max_rows=4).generate(prompts, [4 + i for i in range(11)])
    alone = one_by_one(model, prompts, 14, eos_token_id=-1)
    assert [list(o.ids) for o in outputs] == [said[: 4 + i] for i, said in enumerate(alone)]


@pytest.mark.parametrize("architecture", ["mistral", "gemma2"])
def test_sliding_windows_shorter_than_the_text(architecture: str) -> None:
    model = shaken(architecture).double()
    model.config.sliding_window = 6
    for module in model.modules():
        if getattr(module, "sliding_window", None) is not None:
            module.sliding_window = 6
    prompts = many(12, 14)
    outputs = Decoder(model, [], 0, max_rows=5).generate(prompts, 20)
    assert [list(o.ids) for o in outputs] == one_by_one(model, prompts, 20, eos_token_id=-1)


def test_a_common_beginning_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = shaken("llama").double()
    prompts = [[5, 6, 7] * 20 + prompt for prompt in many(20, 6)]
    expected = one_by_one(model, prompts, 6, eos_token_id=-1)
    tokens = []
    hook = model.register_forward_pre_hook(lambda m, a, k: tokens.append(k["input_ids"].numel()), with_kwargs=True)
    outputs = Decoder(model, [], 0).generate(prompts, 6)
    hook.remove()
    assert [list(o.ids) for o in outputs] == expected
    assert tokens[0] == 60 and sum(tokens) < 60 + 20 * 6 + 6 * 20 + 1


def test_cancelled_rows_leave() -> None:
    model = shaken("llama").double()
    decoder = Decoder(model, [], 0, max_rows=4)
    numbers = [decoder.add(Request(prompt, 30)) for prompt in PROMPTS]
    decoder.cancel(numbers[5])
    seen = []
    while decoder.busy:
        for event in decoder.step():
            seen.append(event.number)
            if seen.count(event.number) == 3:
                decoder.cancel(event.number)
    assert sorted(seen) == sorted(numbers[:5] * 3)


def test_a_stop_text_ends_a_row() -> None:
    model = shaken("llama").double()
    tokenizer = tiny.tokenizer()
    text = lambda ids: tokenizer.decode(ids)  # noqa: E731
    decoder = Decoder(model, [], 0, text=text)
    free = decoder.generate(PROMPTS, 30)
    until = next(text(o.ids[4:6]) for o in free if "\ufffd" not in text(o.ids[4:6]))
    assert decoder.generate(PROMPTS, 30, until=until) == decoder.generate(PROMPTS, 30, until=[until])
    for whole, cut in zip(free, decoder.generate(PROMPTS, 30, until=[until]), strict=True):
        assert cut.ids == whole.ids[: len(cut.ids)]
        assert cut.finished == (until in text(whole.ids))
        assert until not in text(cut.ids[:-1])
    with pytest.raises(ValueError, match="tokenizer"):
        Decoder(model, [], 0).add(Request([1], 2, until=("x",)))


def test_streamed_tokens_are_those_of_generate() -> None:
    model = shaken("llama").double()
    decoder = Decoder(model, [1], 0)
    ids: list[list[int]] = [[] for _ in PROMPTS]
    for event in decoder.stream([Request(prompt, 9) for prompt in PROMPTS]):
        ids[event.number].append(event.id)
    assert [tuple(i) for i in ids] == [o.ids for o in decoder.generate(PROMPTS, 9)]


def test_each_request_has_its_own_way_of_sampling() -> None:
    model = shaken("llama").double()
    ways = [
        Sampling(),
        Sampling(1.0, top_k=20),
        Sampling(2.0),
        Sampling(1.0, top_p=0.9),
        Sampling(0.0, 0, 1.0, 0.0, 1.5),
    ]
    requests = [Request(prompt, 12, way, seed=3) for prompt in PROMPTS for way in ways]
    decoder = Decoder(model, [1], 0)
    together: list[list[int]] = [[] for _ in requests]
    for event in decoder.stream(requests):
        together[event.number].append(event.id)
    assert together == [[e.id for e in decoder.stream([request])] for request in requests]
    penalised = one_by_one(model, PROMPTS, 12, eos_token_id=1, repetition_penalty=1.5)
    assert together[4::5] == penalised


def test_a_choice_is_scored_as_if_written_out() -> None:
    model = shaken("gpt2").double()
    prompts = many(9, 12)
    choices = [[[40], [50, 60], [50, 61, 62]][: 1 + i % 3] for i in range(9)]
    told = Decoder(model, [1], 0, max_rows=4).choice_logprobs(prompts, choices)
    for prompt, answers, row in zip(prompts, choices, told, strict=True):
        for answer, value in zip(answers, row, strict=True):
            with torch.no_grad():
                log = model(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
            expected = sum(float(log[len(prompt) - 1 + n, token]) for n, token in enumerate(answer))
            assert value == pytest.approx(expected, abs=1e-5)


class Shift:
    """A stand-in for a bank of adapters: adds a vector of its own to each row's last hidden states."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.vectors = {None: torch.zeros(16), "a": torch.ones(16), "b": torch.linspace(-3, 3, 16)}
        model.model.layers[0].register_forward_hook(self.add)

    def hold(self, name):
        return name

    def use(self, names) -> None:
        self.names = names

    def add(self, module, args, output):
        assert len(output) == len(self.names)
        return output + torch.stack([self.vectors[name] for name in self.names])[:, None].to(output.dtype)


def test_each_row_has_its_own_adapter() -> None:
    model = shaken("llama").double()
    bank = Shift(model)
    names = [None, "a", "b", "a", "b", None]
    prompts = [[9] * 70 + prompt for prompt in PROMPTS]
    decoder = Decoder(model, [], 0, max_rows=4, adapters=bank)
    requests = [Request(prompt, 10, adapter=name) for prompt, name in zip(prompts, names, strict=True)]
    together: list[list[int]] = [[] for _ in requests]
    for event in decoder.stream(requests):
        together[event.number].append(event.id)
    for request, said in zip(requests, together, strict=True):
        bank.names = [request.adapter]
        assert said == one_by_one(model, [request.prompt], 10, eos_token_id=-1)[0]
    assert len({tuple(said) for said in together}) > 1


def test_out_of_memory_halves_the_batch(caplog: pytest.LogCaptureFixture) -> None:
    model = shaken("llama").double()
    expected = Decoder(model, [1], 0).generate(PROMPTS, 8)

    def refuse(module, args, kwargs):
        if len(kwargs["input_ids"]) > 2:
            raise torch.OutOfMemoryError("no memory")

    model.register_forward_pre_hook(refuse, with_kwargs=True)
    assert Decoder(model, [1], 0, max_rows=8).generate(PROMPTS, 8) == expected
    assert "at most 2 rows" in caplog.text


def test_what_keeps_more_than_keys_and_values_is_refused() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    mamba = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("mamba", hidden_size=16, num_hidden_layers=1, vocab_size=30, state_size=4)
    )
    with pytest.raises(ContinualError, match="keeps no key-value cache"):
        Decoder(mamba, [1], 0)
    hybrid = tiny.model("llama")
    hybrid.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(ContinualError, match="LinearAttentionLayer"):
        Decoder(hybrid, [1], 0)


def test_float32_says_nearly_the_same_in_any_batch() -> None:
    model = shaken("llama")
    prompts, sampling = [[10 + i % 4] for i in range(128)], Sampling(1.0, top_k=20)
    together = Decoder(model, [1], 0, max_rows=64).generate(prompts, 20, sampling, range(128))
    alone = Decoder(model, [1], 0, max_rows=1).generate(prompts, 20, sampling, range(128))
    assert sum(a == b for a, b in zip(together, alone, strict=True)) >= 127


def test_the_likelihood_of_each_token_is_the_models_own() -> None:
    model = shaken("llama").double()
    ways = [Sampling(), Sampling(0.7, top_k=5), Sampling(repetition_penalty=1.5)]
    asked = [Request(prompt, 6, way, seed=3, logprobs=2) for prompt in PROMPTS for way in ways]
    quiet = Request(PROMPTS[0], 6)
    told: list[list] = [[] for _ in [*asked, quiet]]
    for event in Decoder(model, [], 0).stream([*asked, quiet]):
        told[event.number].append(event)
    assert all(event.likelihood is None for event in told[-1])
    for request, events in zip(asked, told, strict=False):
        ids = [*request.prompt, *(event.id for event in events)]
        with torch.no_grad():
            log = model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)[len(request.prompt) - 1 :]
        for event, row in zip(events, log, strict=False):
            assert event.likelihood.logprob == pytest.approx(float(row[event.id]), abs=1e-5)
            values, best = row.topk(2)
            assert [i for i, _ in event.likelihood.top] == best.tolist()
            assert [p for _, p in event.likelihood.top] == pytest.approx(values.tolist(), abs=1e-5)


def positions_seen_by_the_head(model, work) -> list[int]:
    """For each call of the output layer, of how many positions it makes logits while `work` is done."""
    seen: list[int] = []

    def note(module, args, output) -> None:
        seen.append(output.shape[:-1].numel())

    with model.get_output_embeddings().register_forward_hook(note):
        work()
    return seen


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES + tiny.MORE_ARCHITECTURES)
def test_a_prefill_makes_logits_of_last_positions_only(architecture: str) -> None:
    model = shaken(architecture)
    prompts = [[5 + n, *range(100, 147)] for n in range(20)]  # 960 positions
    seen = positions_seen_by_the_head(model, lambda: Decoder(model, [], 0).generate(prompts, 3))
    assert seen == [20, 20, 20, 20]  # the prefill, and one step for each token


def test_a_common_beginning_makes_no_logits_of_its_own() -> None:
    model = shaken("llama")
    prompts = [[*range(100, 148), n] for n in range(5, 25)]
    seen = positions_seen_by_the_head(model, lambda: Decoder(model, [], 0).generate(prompts, 2))
    assert seen == [1, 20, 20]


def test_choices_make_logits_of_their_own_tokens_only() -> None:
    model = shaken("llama")
    prompts, choices = [[5 + n, *range(100, 147)] for n in range(10)], [[[40], [50, 60]]] * 10
    seen = positions_seen_by_the_head(model, lambda: Decoder(model, [], 0).choice_logprobs(prompts, choices))
    assert seen == [10, 20 * 2]  # the ten prompts, and two tokens of twenty choices
