"""Adapters that come, go, are replaced, and are dropped from memory while rows are at work."""

import gc
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import tiny
from loras import LORAS, MIX, PROMPTS, ROWS, alone, bank, decoded, random_lora

from continual import lora
from continual.adapters import AdapterBank
from continual.decode import Decoder
from continual.errors import ContinualError
from continual.request import Chosen, Request


def test_what_is_replaced_answers_what_was_asked_of_it_and_nothing_new() -> None:
    one = bank()
    decoder = Decoder(one.model, [1], 0, adapters=one)
    old = decoder.add(Request(PROMPTS[0], 12, adapter="a"))
    said: dict[int, list[int]] = {old: [event.id for event in decoder.step()]}
    one.load("a", LORAS["b"])
    new = decoder.add(Request(PROMPTS[0], 12, adapter="a"))
    one.unload("a")
    said[new] = []
    while decoder.busy:
        for event in decoder.step():
            said[event.number].append(event.id)
    (as_a,), (as_b,) = alone(["a"]), alone(["b"])
    assert (tuple(said[old]), tuple(said[new])) == (as_a, as_b) and as_a != as_b
    with pytest.raises(ContinualError, match="unknown adapter 'a'"):
        decoder.add(Request(PROMPTS[0], 12, adapter="a"))


def test_a_mix_of_what_was_replaced_is_made_anew() -> None:
    one, mix = bank(), (("a", 1.0),)
    (before,) = decoded(one, [mix])
    one.load("a", LORAS["b"])
    (after,) = decoded(one, [mix])
    assert ([before], [after]) == (alone(["a"]), alone(["b"]))


def test_nobody_is_left_of_what_is_unloaded_when_its_rows_are_done() -> None:
    one = bank()
    decoder = Decoder(one.model, [1], 0, adapters=one)
    decoder.add(Request(PROMPTS[0], 12, adapter="a"))
    source = one._names["a"]
    one.unload("a")
    decoder.step()
    assert source in one._alive
    while decoder.busy:
        decoder.step()
    decoder.clear()
    gc.collect()
    assert source not in one._alive


def test_adapters_come_and_go_while_threads_decode() -> None:
    one = bank()
    rows: list[list[Chosen]] = [ROWS, ["a"] * 3, ["b", MIX, "small"], [None] * 2, list(reversed(ROWS))]
    wanted = [alone(row) for row in rows]
    wrong: list[Any] = []
    stop = threading.Event()

    def churn() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            one.load(f"other{n % 3}", random_lora(n, rank=1 + n % 5))
            one.load("a", LORAS["a"])
            if n % 2:
                one.unload(f"other{n % 3}")

    def work(offset: int) -> None:
        for n in range(len(rows)):
            k = (n + offset) % len(rows)
            if (said := decoded(one, rows[k])) != wanted[k]:
                wrong.append((k, said))

    workers = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    churning = threading.Thread(target=churn)
    for thread in (churning, *workers):
        thread.start()
    for thread in workers:
        thread.join()
    stop.set()
    churning.join()
    assert not wrong


def test_the_least_recently_used_go_and_come_back(tmp_path: Path) -> None:
    two = AdapterBank(tiny.model().double())
    two.load("a", LORAS["a"])
    size = two.bytes
    one = AdapterBank(tiny.model().double(), memory=2 * size)
    lora.save(LORAS["a"], tmp_path / "a")
    one.load("a", tmp_path / "a")
    one.load("b", LORAS["b"])
    assert one.bytes == 2 * size
    one.load("queries", LORAS["queries"])
    assert one.bytes < 2 * size and one.names() == ["a", "b", "queries"]
    for _ in range(2):
        assert decoded(one, ["a", "b", "queries"]) == alone(["a", "b", "queries"])
        assert one.bytes <= 2 * size
    shutil.rmtree(tmp_path / "a")
    decoded(one, ["b", "queries"])
    with pytest.raises(ContinualError, match="no adapter, there is no adapter_config|changed since it was loaded"):
        one.use(["a"])


def test_what_changed_on_disk_is_not_taken_for_what_was_loaded(tmp_path: Path) -> None:
    one = AdapterBank(tiny.model().double(), memory=1)
    lora.save(LORAS["a"], tmp_path)
    one.load("a", tmp_path)
    one.load("b", LORAS["b"])
    lora.save(LORAS["small"], tmp_path)
    with pytest.raises(ContinualError, match="changed since it was loaded as 'a': load it again"):
        one.use(["a"])
    one.load("a", tmp_path)
    assert decoded(one, ["a"]) == alone(["small"])


def test_a_single_name_is_not_taken_for_one_name_a_letter() -> None:
    one = bank()
    with pytest.raises(TypeError, match="a list with one adapter for each row is expected, not 'a'"):
        one.use("a")
