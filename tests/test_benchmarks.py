"""The benchmarks run, with settings so small that their figures mean nothing, and count what they say they count."""

import gzip
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(ROOT))
    yield
    from accelerate.state import AcceleratorState, GradientState

    # The benchmarks change the precision of the process.
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def rows_of(path: Path) -> list[dict[str, Any]]:
    told = json.loads(path.read_text(encoding="utf-8"))
    assert told["schema"] == 1
    assert {"date", "cpu", "threads", "versions"} <= set(told["machine"])
    for row in told["rows"]:
        assert set(row) == {"name", "ours", "peer", "peer_name", "ratio", "unit", "repeats"}
        assert len(row["repeats"]["ours"]) == len(row["repeats"]["peer"]) == 1
        assert row["ours"] > 0 < row["peer"]
    return told["rows"]


def test_decoding_is_compared_with_generate_and_the_limit(tmp_path: Path) -> None:
    from benchmarks import decode

    file = tmp_path / "decode.json"
    decode.main(["--quick", "--repeats", "1", "--output", str(file), "--architectures"])
    assert [row["peer_name"] for row in rows_of(file)] == ["generate, batch 32", "matrix products"]
    (equal,) = json.loads(file.read_text(encoding="utf-8"))["measured"]["equal"]
    assert equal["float64_greedy_equal"] == 1.0


def test_adapters_are_compared_with_peft_and_with_the_base_alone(tmp_path: Path) -> None:
    from benchmarks import adapters

    file = tmp_path / "adapters.json"
    adapters.main(["--quick", "--repeats", "1", "--output", str(file)])
    peers = [row["peer_name"] for row in rows_of(file)]
    assert peers == [
        "base, one batch",
        "PEFT adapter_names",
        "PEFT set_adapter, one at a time",
        "base, generate",
        "base, one batch",
        "PEFT set_adapter",
    ]
    batch, swap = json.loads(file.read_text(encoding="utf-8"))["measured"]
    assert batch["rows_equal_to_peft"]["float64"] == 1.0 and swap["loaded"] == 2


def test_training_is_compared_with_its_peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import train

    file = tmp_path / "train.json"
    monkeypatch.setattr(train, "find_spec", lambda name: None)  # TRL takes long to import, and may not be there
    train.main(["--quick", "--repeats", "1", "--output", str(file)])
    peers = {row["peer_name"].partition(",")[0] for row in rows_of(file)}
    assert peers == {"plain loop", "two passes", "float32 matrix products", "bfloat16 matrix products"}
    (model,) = json.loads(file.read_text(encoding="utf-8"))["measured"]["models"]
    assert all(curve for curve in model["losses"].values())


def test_lora_on_a_model_is_compared_with_another_checkout_the_limit_and_generate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tiny

    from benchmarks import lora, train

    processes: list[dict[str, str]] = []

    def rate(settings: dict[str, str], options: lora.Options, flags: list[str]) -> float:
        processes.append(settings)
        return 1.0

    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    monkeypatch.setattr(lora, "_rate", rate)  # a fresh process each
    file, folder = tmp_path / "train.json", str(tiny.saved(tmp_path / "model"))
    words = ["--lora", "--model", folder, "--against", "/other", "--samples", "8", "--bf16"]
    train.main(["--quick", "--repeats", "1", "--output", str(file), *words])
    peers = [row["peer_name"] for row in rows_of(file)]
    assert peers == [
        "the other checkout, float32",
        lora.LIMIT,
        "ours, float32",
        "the other checkout, bf16",
        lora.LIMIT,
        "ours, bf16",
        "generate, batch 8",
        "one thread",
    ]
    assert {"PYTHONPATH": "/other"} in processes and {"OMP_NUM_THREADS": "1"} in processes
    measured = json.loads(file.read_text(encoding="utf-8"))["measured"]
    assert measured["greedy_equal"] == 1.0 and measured["micro_batch"] > 1 and 0 < measured["supervised"] < 1


def test_two_passes_and_ours_compute_the_same_two_losses() -> None:
    import copy

    import tiny

    from benchmarks import loops
    from benchmarks.texts import Pair

    model = tiny.model("llama")
    # One step over rows of equal length: no order and no padding can make a difference.
    rows = [Pair([10 + i, 11, 12], [20, 21 + i]) for i in range(4)]
    setting = loops.Setting(rows, rows_per_step=4)
    answers = [loops.ours(copy.deepcopy(model), setting), loops.plain(copy.deepcopy(model), setting)]
    assert answers[0].losses == pytest.approx(answers[1].losses, rel=1e-5)
    # With the cue in front, our answer loss is read after it; LAMOL's is not: the sample loss alone is the same.
    both = loops.plain(copy.deepcopy(model), setting, two_passes=True).losses[0] - answers[1].losses[0]
    mine = loops.ours(copy.deepcopy(model), setting, sample_loss=True).losses[0]
    cued = loops.CUE
    answer = loops._loss(
        copy.deepcopy(model).requires_grad_(False), [(cued + row.ids, len(cued) + len(row.prompt)) for row in rows]
    )
    assert mine - float(answer) == pytest.approx(both, rel=1e-4)


def test_scaling_tells_seconds_of_each_part(tmp_path: Path) -> None:
    from benchmarks import scale

    file = tmp_path / "scale.json"
    scale.main(["--quick", "--repeats", "1", "--output", str(file)])
    assert [row["name"] for row in rows_of(file)] == ["apart from evaluation, 3 tasks"]
    runs = json.loads(file.read_text(encoding="utf-8"))["measured"]["runs"]
    assert all(run[0]["training"] > 0 < run[0]["evaluation"] for run in runs.values())


def test_starting_up_is_timed(tmp_path: Path) -> None:
    from benchmarks import startup

    file = tmp_path / "startup.json"
    startup.main(["--quick", "--repeats", "1", "--output", str(file)])
    seconds = json.loads(file.read_text(encoding="utf-8"))["measured"]["seconds"]
    assert "continual ls" in seconds


def test_a_base_is_pretrained_on_texts_that_are_in_no_test_row(tmp_path: Path) -> None:
    from benchmarks import english

    story, other = " ".join(f"word{n}" for n in range(30)), " ".join(f"term{n}" for n in range(30))
    rows = {
        "train": [
            {"instruction": "Say it.", "input": f"so {story[:200]}", "output": "yes"},
            {"input": f"{other}\n\n and more", "output": "no"},
            {"input": "short", "output": "a long answer " * 10},
            {"input": "short", "output": "maybe"},
            {"input": "看见" * 30, "output": "看"},
            {"messages": [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Good day."}]},
        ],
        "test": [{"input": story, "output": "yes"}],
    }
    (tmp_path / "data" / "set").mkdir(parents=True)
    for split, told in rows.items():
        with gzip.open(tmp_path / "data" / "set" / f"task.{split}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in told)
    english.main([str(tmp_path / "data"), str(tmp_path / "runs" / "english.txt")])
    documents = (tmp_path / "runs" / "english.txt").read_text(encoding="utf-8").strip().split("\n\n")
    assert documents == [f"{other}\nand more", "short", ("a long answer " * 10).strip(), "Hello.\nGood day."]


def test_the_recipe_of_that_base_is_right() -> None:
    from continual import yamlfile
    from continual.pretrain import PretrainRecipe

    yamlfile.validate(PretrainRecipe, yamlfile.load(ROOT / "benchmarks" / "english-35M.yaml"))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("trl") is None, reason="needs the extra bench")
def test_trl_sees_the_same_loss() -> None:
    import copy

    import tiny

    from benchmarks import loops
    from benchmarks.texts import Pair

    model = tiny.model("llama")
    setting = loops.Setting([Pair([10 + i, 11, 12], [20, 21 + i]) for i in range(4)], rows_per_step=4)
    theirs = loops.trl(copy.deepcopy(model), setting, tiny.tokenizer(), bf16=False, packing=False, batch=2)
    mine = loops.ours(copy.deepcopy(model), setting)
    assert theirs.losses == pytest.approx(mine.losses, rel=1e-3)


def test_merging_is_compared_with_peft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import merge
    from continual.merges import MERGES

    file = tmp_path / "merge.json"
    monkeypatch.setattr(merge, "find_spec", lambda name: None)  # mergekit may not be there
    merge.main(["--quick", "--repeats", "1", "--output", str(file)])
    assert [row["peer_name"] for row in rows_of(file)] == ["PEFT svd", "PEFT svd, reduced"]
    told = json.loads(file.read_text(encoding="utf-8"))["measured"]
    assert told["seconds"].keys() == MERGES.keys()
    assert len(told["distance"]) == 3 and max(told["distance"].values()) < 1e-4
