"""The page in a browser: it loads without a complaint, shows two answers as they come, and stores votes."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import served
from browser import CHROMIUM, Page

from continual.route import FOLDER, Router
from continual.serve.app import PAGE
from continual.serve.server import Settings, build

TALK = [
    {"role": "system", "content": "be good"},
    {"role": "user", "content": "a dog"},
    {"role": "assistant", "content": "a cat"},
    {"role": "user", "content": "big"},
]
"""The prompt of a task of conversations, as exams write it down."""

in_a_browser = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[served.Running]:
    run = served.make_run(tmp_path_factory.mktemp("page"))
    Router.fit({task: [f"{task} this {n}" for n in range(4)] for task in served.TASKS}).save(run / FOLDER)
    predictions = run / "arms/rehearsal/seed0/predictions"
    predictions.mkdir()
    (predictions / "1-edit.jsonl").write_text('{"prompt": "edit <b>this</b>"}\n{"prompt": "another"}\n')
    (predictions / "1-answer.jsonl").write_text(json.dumps({"prompt": TALK}) + "\n")
    settings = Settings(port=0)
    running = served.Running(build(run, settings), settings)
    yield running
    running.stop()


@pytest.fixture
def page(server: served.Running, tmp_path: Path) -> Iterator[Page]:
    page = Page(tmp_path / "profile")
    page.open(f"{server.address}/")
    page.wait("document.querySelectorAll('#left option').length > 0")
    yield page
    page.close()


def choose(page: Page, left: str, right: str) -> None:
    for side, name in (("left", left), ("right", right)):
        page.run(f"side = document.querySelector('#{side}'); side.value = '{name}'")
        page.run("side.dispatchEvent(new Event('change'))")


def ask(page: Page, prompt: str) -> None:
    """Type a prompt, and press Enter."""
    page.run(
        f"document.querySelector('#prompt').value = {json.dumps(prompt)}; document.querySelector('#prompt').focus()"
    )
    page.press("Enter")
    page.wait("document.querySelector('#go').textContent === 'Ask both' && !document.querySelector('[aria-busy]')")


def example(task: str) -> str:
    """A script that clicks the test prompt of a task."""
    return f"[...document.querySelectorAll('#examples button')].find(b => b.textContent === '{task}').click(); 0"


def set_field(page: Page, name: str, value: str) -> None:
    page.run(f"field = document.querySelector('#{name}'); field.value = {json.dumps(value)}")
    page.run("field.dispatchEvent(new Event('input')); 0")


def text(page: Page, selector: str) -> str:
    return str(page.run(f"document.querySelector('{selector}').textContent"))


def answer(server: served.Running, model: str, prompt: str | list[dict[str, str]], **more: Any) -> str:
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    body = {"model": model, "messages": messages, "temperature": 0, **more}
    told = httpx.post(f"{server.address}/v1/chat/completions", json=body, timeout=60).json()
    return str(told["choices"][0]["message"]["content"])


def votes(server: served.Running) -> dict:
    return httpx.get(f"{server.address}/api/votes").json()


def test_nothing_is_loaded_from_elsewhere_and_no_style_or_script_stands_in_the_page() -> None:
    for file in PAGE.iterdir():
        content = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in content and "https://" not in content and "@import" not in content
    page = (PAGE / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"\son\w+=|\sstyle=|<style|<script(?! type=\"module\" src=)", page)


class TestInABrowser:
    """What only a browser shows."""

    pytestmark = in_a_browser

    def test_two_answers_stand_side_by_side_as_the_server_gives_them(self, server: served.Running, page: Page) -> None:
        choose(page, "base", "edit")
        ask(page, "a red dog")
        for box, model in (("#first", "base"), ("#second", "edit")):
            assert text(page, f"{box} h3") == model
            assert text(page, f"{box} .text") == answer(server, model, "a red dog") != ""
        assert page.run("document.querySelector('#ballot').hidden")
        assert page.problems == []

    def test_answers_come_piece_by_piece(self, page: Page) -> None:
        choose(page, "base", "edit")
        page.run(
            "seen = new Set(); box = document.querySelector('#first .text');"
            "watch = new MutationObserver(() => seen.add(box.textContent)); watch.observe(box, {childList: true}); 0"
        )
        ask(page, "a red dog")
        assert page.run("seen.size") > 3

    def test_auto_tells_whom_it_chose_and_why(self, page: Page) -> None:
        choose(page, "base", "auto")
        ask(page, "edit this 2")
        assert text(page, "#second .choice p").startswith("edit answered sure")
        assert page.run("[...document.querySelectorAll('#second .scores dt')].map(e => e.textContent)")[0] == "edit"
        assert page.run("document.querySelector('#first .choice').hidden")

    @pytest.mark.parametrize("key", ["1", "2", "0"])
    def test_a_blind_vote_by_key_is_stored_and_names_come_after_it(
        self, server: served.Running, page: Page, key: str
    ) -> None:
        before = votes(server)["votes"]
        choose(page, "base", "edit")
        page.run("document.querySelector('input[value=blind]').click(); 0")
        ask(page, "a big cat")
        shown = [text(page, "#first h3"), text(page, "#second h3")]
        assert shown == ["First answer", "Second answer"]
        assert text(page, "#first .took") == text(page, "#second .took") == ""  # could tell who it is
        page.press(key)  # still in the prompt: this writes a digit
        assert votes(server)["votes"] == before
        page.run("document.activeElement.blur()")
        page.press(key)
        page.wait("document.querySelector('#verdict').textContent.includes('Ask again')")
        stored = json.loads((server.app.run_dir / "votes.jsonl").read_text().splitlines()[-1])
        assert {stored["a"], stored["b"]} == {"base", "edit"} and stored["prompt"] == "a big cat"
        assert stored["winner"] == {"1": "a", "2": "b", "0": "tie"}[key]
        for box, side in (("#first", "a"), ("#second", "b")):
            assert text(page, f"{box} h3").startswith(stored[side])
            assert re.match(r"\d+\.\d s\b", text(page, f"{box} .took"))
            assert text(page, f"{box} .text") == stored["answers"][side] == answer(server, stored[side], "a big cat")
        page.press(key)  # once only
        assert votes(server)["votes"] == before + 1
        assert text(page, "#head-to-head").startswith("base against edit: preferred in")
        assert page.problems == []

    def test_the_order_of_a_blind_pair_is_drawn(self, page: Page) -> None:
        page.run("document.querySelector('input[value=blind]').click(); 0")
        choose(page, "base", "edit")
        page.run("draws = [0.1, 0.9]; Math.random = () => draws.shift(); 0")
        models = []
        for _ in range(2):
            ask(page, "a cat")
            page.run("document.activeElement.blur()")
            page.press("1")
            page.wait("document.querySelector('#verdict').textContent.includes('You preferred')")
            models.append(text(page, "#verdict strong"))
        assert models == ["edit", "base"]

    def test_r_is_shown_with_the_base_first_and_arms_to_choose(self, page: Page) -> None:
        rows = page.run(
            "[...document.querySelectorAll('.heat tbody tr')].map(r => [...r.children].map(c => c.textContent))"
        )
        assert rows[0] == ["base, untaught", "0", "0", "0"] and rows[2] == ["edit", "40", "50", "0"]
        new = page.run("[...document.querySelectorAll('.heat td.new')].map(c => c.textContent)")
        assert new == ["50", "50", "50"]
        page.run(
            "arm = document.querySelector('#arm'); arm.value = [...arm.options].find(o => o.label === 'apart').value"
        )
        page.run("arm.dispatchEvent(new Event('change'))")
        assert text(page, ".heat tbody tr:last-child").startswith("specialists50")

    def test_an_example_is_a_prompt_and_never_html(self, page: Page) -> None:
        page.run(example("edit"))
        assert page.run("document.querySelector('#prompt').value") == "edit <b>this</b>"
        assert text(page, "#talk") == "" and page.run("document.querySelector('#fresh').hidden")

    def test_an_example_of_conversations_is_a_conversation(self, server: served.Running, page: Page) -> None:
        choose(page, "base", "edit")
        page.run(example("answer"))
        assert page.run("document.querySelector('#prompt').value") == "big"
        assert page.run("document.querySelector('#system').value") == "be good"
        assert page.run("document.querySelector('#settings').open")
        assert text(page, "#talk .bubble") == "a dog" and text(page, "#talk .text") == "a cat"
        for part in ("[", "{", "role"):
            assert part not in text(page, "#talk")
        set_field(page, "length", "12")
        ask(page, "big")
        for box, model in (("#first", "base"), ("#second", "edit")):
            assert text(page, f"{box} .text") == answer(server, model, TALK, max_tokens=12) != ""

    def test_a_second_turn_goes_on_with_each_models_own_answer(self, server: served.Running, page: Page) -> None:
        choose(page, "base", "edit")
        set_field(page, "length", "8")
        ask(page, "a red dog")
        ask(page, "a cat")
        for side, (box, model) in enumerate((("#first", "base"), ("#second", "edit"))):
            before = answer(server, model, "a red dog", max_tokens=8)
            assert text(page, f"#talk article:nth-child({side + 1}) h3") == model
            assert text(page, f"#talk article:nth-child({side + 1}) .text") == before
            turns = [("user", "a red dog"), ("assistant", before), ("user", "a cat")]
            messages = [{"role": role, "content": content} for role, content in turns]
            assert text(page, f"{box} .text") == answer(server, model, messages, max_tokens=8)
        page.run("document.querySelector('#fresh').click(); 0")
        assert text(page, "#talk") == "" and page.run("document.querySelector('#now').hidden")
        ask(page, "a cat")
        assert text(page, "#first .text") == answer(server, "base", "a cat", max_tokens=8)
        assert page.problems == []

    def test_settings_are_sent_and_shown(self, server: served.Running, page: Page) -> None:
        choose(page, "base", "edit")
        assert text(page, "#summary") == "No system line, temperature 0, at most 256 tokens"
        for name, value in (("system", "be good"), ("temperature", "0.5"), ("length", "4")):
            set_field(page, name, value)
        assert text(page, "#summary") == "A system line, temperature 0.5, at most 4 tokens"
        page.run("bodies = []; send = window.fetch; window.fetch = (p, o) => (bodies.push(o?.body), send(p, o)); 0")
        ask(page, "a cat")
        sent = json.loads(page.run("bodies[0]"))
        assert (sent["temperature"], sent["max_tokens"]) == (0.5, 4)
        assert [message["role"] for message in sent["messages"]] == ["system", "user"]
        assert text(page, "#first .took").endswith("cut at the longest length")
        set_field(page, "temperature", "3")
        page.run("bodies = []; document.querySelector('#ask').requestSubmit(); 0")
        assert page.run("bodies.length") == 0  # the browser says what is wrong with the field

    def test_a_blind_conversation_is_voted_on_as_a_whole(self, server: served.Running, page: Page) -> None:
        choose(page, "base", "edit")
        page.run("document.querySelector('input[value=blind]').click(); 0")
        set_field(page, "system", "be good")
        set_field(page, "length", "6")
        ask(page, "a dog")
        ask(page, "a cat")
        assert text(page, "#talk article:first-child h3") == "First answer"
        page.run("document.activeElement.blur()")
        page.press("2")
        page.wait("document.querySelector('#verdict').textContent.includes('Ask again')")
        stored = json.loads((server.app.run_dir / "votes.jsonl").read_text().splitlines()[-1])
        assert [turn["content"] for turn in stored["prompt"]] == ["be good", "a dog", "a cat"]
        for place, side in ((1, "a"), (2, "b")):
            assert len(stored["answers"][side]) == 2
            assert text(page, f"#talk article:nth-child({place}) h3") == stored[side]
            assert text(page, f"#talk article:nth-child({place}) .text") == stored["answers"][side][0]
        ask(page, "a red dog")  # the names are out: a new conversation
        assert text(page, "#talk") == "" and text(page, "#first h3") == "First answer"
        assert page.problems == []

    def test_a_turn_that_failed_can_be_asked_again(self, page: Page) -> None:
        choose(page, "base", "edit")
        set_field(page, "length", "1000")
        ask(page, "a cat")
        assert "room for 128 tokens" in text(page, "#first .text")
        assert page.run("document.querySelector('#prompt').value") == "a cat"
        set_field(page, "length", "4")
        ask(page, "a cat")
        assert text(page, "#talk") == "" and "room" not in text(page, "#first .text")

    def test_what_goes_wrong_is_shown(self, page: Page) -> None:
        choose(page, "base", "base")
        page.run("document.querySelector('input[value=blind]').click(); 0")
        ask(page, "a cat")
        assert text(page, "#trouble") == "A blind comparison needs two different models."

    def test_a_phone_shows_one_column_and_nothing_beside_the_screen(
        self, server: served.Running, tmp_path: Path
    ) -> None:
        page = Page(tmp_path / "phone", (390, 844), dark=True)
        try:
            page.open(f"{server.address}/")
            page.wait("document.querySelectorAll('#left option').length > 0")
            page.run(example("answer"))
            set_field(page, "length", "4")
            ask(page, "big")
            ask(page, "big")
            assert page.run("document.documentElement.scrollWidth") == 390
            first, second = (
                page.run(f"document.querySelector('{box}').getBoundingClientRect().y") for box in ("#first", "#second")
            )
            assert second > first + 50
        finally:
            page.close()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_a_server_with_a_key_asks_for_it(server: served.Running, tmp_path: Path) -> None:
    settings = Settings(port=0, key="secret")
    running = served.Running(build(server.app.run_dir, settings), settings)
    page = Page(tmp_path / "profile")
    try:
        page.open(f"{running.address}/")
        page.wait("!document.querySelector('#door').hidden")
        for key in ("wrong", "secret"):
            page.run(
                f"document.querySelector('#key').value = '{key}'; document.querySelector('#door').requestSubmit()"
            )
        page.wait("document.querySelector('#door').hidden && document.querySelectorAll('#left option').length > 0")
    finally:
        page.close()
        running.stop()
