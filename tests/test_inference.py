"""The Python interface to a run: many prompts, each with its own adapter, in one call."""

import threading
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from conftest import make_world, teach
from fake_run import write_arm
from test_lora import adapter as make_adapter
from test_talk import ARMS, CHEAP, greedy

import continual
from continual import inference
from continual.errors import ContinualError
from continual.sample import Message
from continual.sampling import Sampling

PROMPT = "sad dog"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter run of three arms."""
    return teach(make_world(tmp_path_factory.mktemp("inference")), arms=ARMS, adapter={"r": 8}, **CHEAP)


SEVERAL = {
    "model_name_or_path": "builtin:tinyworld",
    "curriculum": ["answer"],
    "adapter": {},
    "training": {"learning_rate": 1e-3},
    "arms": {"first": {"teach": "specialists"}, "also": {"teach": "specialists"}},
    "output_dir": "runs/several",
    "seeds": [0, 1],
}
NAMES = ["base", "finetune", "legs", "sound", "rehearsal"]


@pytest.fixture(scope="module")
def answers(run: Path) -> dict[str, str]:
    """What each says by transformers' and PEFT's own ways."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    told = {}
    for name, folder in inference.taught(run).items():
        model = AutoModelForCausalLM.from_pretrained(run.parent / "model")
        model = model if folder is None else PeftModel.from_pretrained(model, folder)
        told[name] = greedy(model.eval(), PROMPT)
    return told


def test_each_prompt_is_answered_by_its_adapter_in_one_batch(
    run: Path, answers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    load = inference.load_model
    monkeypatch.setattr(inference, "load_model", lambda *given: (loaded.append(given), load(*given))[1])
    bank = continual.load(run)
    assert bank.generate([PROMPT] * 5, NAMES, max_new_tokens=64) == [answers[name] for name in NAMES]
    assert len(loaded) == 1 and len(set(answers.values())) > 3
    assert bank.generate([PROMPT], "legs") == [answers["legs"]]
    assert bank.generate([PROMPT]) == [answers["rehearsal"]]
    assert bank.generate([[Message("user", PROMPT)]], [None]) == [answers["base"]]
    assert set(bank.names()) == set(inference.taught(run))


def test_one_prompt_gets_one_answer_as_a_text_and_as_messages(run: Path, answers: dict[str, str]) -> None:
    bank = continual.load(run)
    message: Any = {"role": "user", "content": PROMPT}
    for prompts in (PROMPT, [message], [Message("user", PROMPT)], [PROMPT], [[message]]):
        assert bank.generate(prompts, "legs") == [answers["legs"]]
    assert bank.generate([[message], PROMPT], ["legs", "base"]) == [answers["legs"], answers["base"]]
    assert "".join(bank.stream([message], "legs")) == answers["legs"]
    with pytest.raises(TypeError, match=r"prompts\[1\]: a text or a list of messages is expected, not int"):
        bank.generate([PROMPT, 3])  # type: ignore[list-item]


def test_earlier_turns_and_a_system_line_are_read(run: Path) -> None:
    bank = continual.load(run)
    turns: Any = [
        {"role": "system", "content": "be good"},
        {"role": "user", "content": PROMPT},
        {"role": "assistant", "content": "woof"},
        {"role": "user", "content": "again"},
    ]
    text = bank.chat.text(bank.request(turns, 4, Sampling(), 0).prompt)
    places = [text.index(turn["content"]) for turn in turns]
    assert places == sorted(places)
    assert bank.generate(turns, "legs") == bank.generate([[Message(**turn) for turn in turns]], "legs")


def test_what_is_drawn_depends_on_the_seed_and_not_on_the_others(run: Path) -> None:
    bank = continual.load(run)
    drawn: dict[str, Any] = {"max_new_tokens": 8, "temperature": 1.0, "top_p": 0.95}
    one = bank.generate([PROMPT] * 3, ["base", "legs", "base"], seed=1, **drawn)
    assert one == bank.generate([PROMPT] * 4, ["base", "legs", "base", "sound"], seed=1, **drawn)[:3]
    assert one != bank.generate([PROMPT] * 3, ["base", "legs", "base"], seed=2, **drawn)


def test_mixes_are_weighted_sums(run: Path, answers: dict[str, str]) -> None:
    bank = continual.load(run)
    same = (("legs", 0.25), ("legs", 0.75), ("base", 3.0))
    nobody = (("base", 1.0),)
    assert bank.generate([PROMPT] * 2, [same, nobody]) == [answers["legs"], answers["base"]]
    assert bank.generate([PROMPT] * 2, same) == [answers["legs"]] * 2
    assert bank.generate([PROMPT] * 2, (same, nobody)) == [answers["legs"], answers["base"]]
    strong = (("legs", 0.5), ("sound", -2.0))
    assert bank.generate([PROMPT], [strong])[0] not in (answers["legs"], answers["sound"], answers["base"])


def test_adapters_from_elsewhere_come_and_go(run: Path, answers: dict[str, str], tmp_path: Path) -> None:
    bank = continual.load(run)
    make_adapter(tmp_path / "own")
    bank.load("own", tmp_path / "own")
    assert "own" in bank.names() and bank.generate([PROMPT], "own") != [answers["base"]]
    bank.unload("own")
    with pytest.raises(ContinualError, match="unknown adapter 'own'"):
        bank.generate([PROMPT], "own")
    bank.generate([PROMPT], "legs")
    bank.unload("legs")
    assert bank.generate([PROMPT], "legs") == [answers["legs"]]
    with pytest.raises(ContinualError, match="'base' is the base model's name"):
        bank.load("base", tmp_path / "own")


def test_little_memory_is_enough(run: Path, answers: dict[str, str]) -> None:
    bank = continual.load(run, memory=1)
    for _ in range(2):
        assert bank.generate([PROMPT] * 5, NAMES) == [answers[name] for name in NAMES]
    (kept,) = bank.bank._kept


def test_threads_ask_at_once(run: Path, answers: dict[str, str]) -> None:
    bank = continual.load(run)
    wrong: list[Any] = []

    def work(start: int) -> None:
        names = [NAMES[(start + n) % 5] for n in range(3)]
        for _ in range(3):
            if (said := bank.generate([PROMPT] * 3, names)) != [answers[name] for name in names]:
                wrong.append((names, said))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_answer_streams_in_pieces_that_are_the_answer(run: Path, answers: dict[str, str]) -> None:
    bank = continual.load(run)
    for name in NAMES:
        pieces = list(bank.stream(PROMPT, name))
        assert "".join(pieces) == bank.generate([PROMPT], name)[0]
    assert max(len(list(bank.stream(PROMPT, name))) for name in NAMES) > 1


def test_a_character_of_several_tokens_comes_whole(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from continual.request import Event

    bank = continual.load(run)
    ids = tiny.tokenizer(True)("a 早b").input_ids
    events = [Event(0, token, n == len(ids) - 1, False) for n, token in enumerate(ids)]
    monkeypatch.setattr(inference.Decoder, "stream", lambda *_: iter(events))
    pieces = list(bank.stream(PROMPT, "base"))
    assert "".join(pieces) == "a 早b" and "早" in "".join(pieces[:-1]) and not any("\ufffd" in p for p in pieces)


def test_specialists_of_several_arms_keep_their_names_apart(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(SEVERAL, sort_keys=False))
    for arm in ("also", "first"):
        for seed in (0, 1):
            folder = write_arm(tmp_path, arm, [[0.0]], teach="specialists", tasks=["legs"], seed=seed)
            (folder / "specialists/legs").mkdir(parents=True)
    found = {
        name: str(path.relative_to(tmp_path / "arms")) for name, path in inference.taught(tmp_path).items() if path
    }
    assert found == {
        "legs": "first/seed0/specialists/legs",
        "legs/seed0": "first/seed0/specialists/legs",
        "legs/seed1": "first/seed1/specialists/legs",
        "also/seed0/legs": "also/seed0/specialists/legs",
        "also/seed1/legs": "also/seed1/specialists/legs",
    }


def test_whole_models_answer_their_own_prompts(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    world = make_world(tmp_path)
    run = teach(world, arms={"plain": {}, "all": {"teach": "multitask"}}, **CHEAP)
    bank = continual.load(run)
    names = ["plain", "base", "all", "plain"]
    folders = [run / "arms/plain/seed0/after/2", world / "model", inference.taught(run)["all"]]
    plain, base, both = (greedy(AutoModelForCausalLM.from_pretrained(folder), PROMPT) for folder in folders)
    assert bank.generate([PROMPT] * 4, names) == [plain, base, both, plain] and plain != base
    assert "".join(bank.stream(PROMPT, "all")) == both
    with pytest.raises(ContinualError, match="whole ones, which cannot be mixed"):
        bank.generate([PROMPT], [(("plain", 0.5), ("all", 0.5))])
    with pytest.raises(ContinualError, match="whole ones, not adapters"):
        bank.load("x", world)


def test_variants_that_are_no_plain_product_answer_as_peft_computes_them(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    world = make_world(tmp_path)
    run = teach(world, arms={"plain": {}}, adapter={"r": 4, "use_dora": True}, **CHEAP)
    model = AutoModelForCausalLM.from_pretrained(world / "model")
    model = PeftModel.from_pretrained(model, run / "arms/plain/seed0/after/2").eval()
    assert continual.load(run).generate([PROMPT]) == [greedy(model, PROMPT)]


def test_a_run_that_began_with_an_adapter_has_it_as_its_base(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    world = make_world(tmp_path)
    begun = {"r": 8, "lora_alpha": 16}
    first = teach(
        world, arms={"plain": {}}, adapter=begun, curriculum=["legs"], output_dir=str(tmp_path / "first"), **CHEAP
    )
    start = first / "arms/plain/seed0/after/1"
    run = teach(
        world,
        arms={"plain": {}, "apart": {"teach": "specialists"}},
        adapter=begun,
        curriculum=["sound"],
        start=str(start),
        output_dir=str(tmp_path / "second"),
        **CHEAP,
    )
    bank = continual.load(run)

    def told(folder: Path) -> str:
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(world / "model"), folder)
        return greedy(model.eval(), PROMPT)

    folders = [start, run / "arms/plain/seed0/after/1", run / "arms/apart/seed0/specialists/sound"]
    wanted = [told(folder) for folder in folders]
    assert bank.generate([PROMPT] * 3, ["base", "plain", "sound"]) == wanted
    assert bank.generate([PROMPT] * 2, [None, (("base", 1.0),)]) == [wanted[0], wanted[0]]
    assert wanted[0] != greedy(AutoModelForCausalLM.from_pretrained(world / "model"), PROMPT)


def test_wrong_names_and_counts_are_told_before_anything_is_loaded(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "load_model", lambda *given: pytest.fail("the base was loaded"))
    bank = continual.load(run)
    with pytest.raises(ContinualError, match="unknown adapter 'leggs'; did you mean 'legs'"):
        bank.generate([PROMPT] * 2, ["legs", "leggs"])
    with pytest.raises(ContinualError, match="unknown adapter 'x'"):
        bank.generate([PROMPT], [(("legs", 1.0), ("x", 1.0))])
    with pytest.raises(ContinualError, match="2 prompts and 1 adapters"):
        bank.generate([PROMPT] * 2, ["legs"])
    with pytest.raises(ContinualError, match="no run in"):
        continual.load("nowhere")
