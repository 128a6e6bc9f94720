"""A chat model that people use answers as in transformers, untaught and taught.

Needs its folder in CONTINUAL_CHAT_MODEL; the figures that were taken are of SmolLM2-135M-Instruct.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_world, teach
from served import running

MODEL = os.environ.get("CONTINUAL_CHAT_MODEL")
NEW = 16
PROMPTS = [
    *(f"What is the capital of {name}?" for name in ("France", "Japan", "Peru", "Egypt", "Norway")),
    *(
        f"Write one sentence about {name}. "
        for name in ("the sea", "a dog", "winter", "bread", "tea")
    ),
    *(
        f"Is this review positive or negative? {text}"
        for text in ("I loved it", "Dull", "Go see it!")
    ),
    *(f"What is {n} plus {n}?" for n in range(4)),
    "Translate into French:\n\nGood morning, my friend.",
    "  Say hello  ",
    "早安，你好吗？",
]
TALK = [
    {"role": "system", "content": "You are Sparky, a terse robot."},
    {"role": "user", "content": "What is 3 plus 4?"},
    {"role": "assistant", "content": "Bzzt: 7."},
    {"role": "user", "content": "And twice that?"},
]
CONVERSATIONS: list[list[dict[str, str]]] = [
    *([{"role": "user", "content": text}] for text in PROMPTS),
    TALK,
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(MODEL is None, reason="needs a chat model in CONTINUAL_CHAT_MODEL"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = make_world(tmp_path_factory.mktemp("real"))
    rows = []
    for n in range(24):
        question = {"role": "user", "content": f"{n} plus 1?"}
        answer = {"role": "assistant", "content": f"Bzzt: {n + 1}."}
        rows.append({"messages": [TALK[0], question, answer]})
    for name, part in (("train", rows[:18]), ("test", rows[18:])):
        lines = "".join(json.dumps(row) + "\n" for row in part)
        (world / "tasks" / f"robot.{name}.jsonl").write_text(lines)
    (world / "tasks/robot.yaml").write_text(
        "task: robot\ndataset_path: json\n"
        "dataset_kwargs: {data_files: {train: robot.train.jsonl, test: robot.test.jsonl}}\n"
        "training_split: train\ntest_split: test\noutput_type: generate_until\nmessages: messages\n"
        "metric_list: [{metric: exact_match}]\ngeneration_kwargs: {max_gen_toks: 12}\n"
    )
    return teach(
        world,
        model_name_or_path=MODEL,
        dtype="float32",
        curriculum=["sound", "legs", "robot"],
        arms={"rehearsal": {"rehearsal": {"ratio": 0.2, "max_tries": 2}}},
        adapter={"r": 8, "target_modules": ["q_proj", "v_proj"]},
        training={
            "learning_rate": 1e-3,
            "num_train_epochs": 1,
            "tokens_per_batch": 512,
            "max_length": 64,
            "max_samples": 8,
        },
        evaluate={"limit": 1},
    )


@pytest.fixture(scope="module")
def api(run: Path) -> Iterator[Any]:
    with running(run) as server:
        yield server


def answers(model: Any, tokenizer: Any) -> list[str]:
    """Greedy answers of plain transformers with the tokenizer's template."""
    said = []
    for conversation in CONVERSATIONS:
        ids = tokenizer.apply_chat_template(
            conversation, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            out = model.generate(**ids, max_new_tokens=NEW, do_sample=False)
        said.append(
            tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True).strip()
        )
    return said


def served(api: Any, name: str) -> list[str]:
    client = api.client().with_options(timeout=900)

    def answer(talk: list[dict[str, str]]) -> str:
        reply = client.chat.completions.create(model=name, messages=talk, max_tokens=NEW, temperature=0)
        return str(reply.choices[0].message.content)

    with ThreadPoolExecutor(len(CONVERSATIONS)) as threads:
        return list(threads.map(answer, CONVERSATIONS))


def test_the_untaught_model_is_served_as_transformers_answers(api: Any) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    assert served(api, "base") == answers(model, AutoTokenizer.from_pretrained(MODEL))


def test_the_taught_adapter_is_served_as_transformers_and_peft_answer(run: Path, api: Any) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = run / "arms/rehearsal/seed0/after/3"
    base = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, folder).eval()
    expected = answers(model, AutoTokenizer.from_pretrained(folder))
    assert served(api, "rehearsal") == expected
