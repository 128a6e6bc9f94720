import json
import textwrap
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from continual.errors import ContinualError
from continual.paths import shipped
from continual.recipe import load_recipe
from continual.sample import Sample
from continual.task import Task, find_task, list_tasks, read_task

REVIEWS = [{"text": f"film number {n}", "label": n % 2, "choices": ["bad", "good"], "score": n} for n in range(200)]
HEAD = """
task: reviews
dataset_path: json
dataset_kwargs: {data_files: {train: train.jsonl, test: test.jsonl}}
test_split: test
"""
BODY = """
doc_to_text: "Review: {{ text | trim }}\\nSentiment:"
doc_to_choice: [negative, positive]
doc_to_target: label
output_type: multiple_choice
"""


def make(folder: Path, text: str = HEAD + BODY, rows: list[dict[str, Any]] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    for split in ("train", "test"):
        lines = [json.dumps(row) + "\n" for row in (rows or REVIEWS)]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    path = folder / "reviews.yaml"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def errors(path: Path, split: Any = None) -> list[str]:
    with pytest.raises(ContinualError) as caught:
        task = read_task(path)
        task.samples(split or "test")
    return [line.replace(f"{path}:", "") for line in caught.value.lines]


def prompts(task: Task, split: Any = "train", **options: Any) -> list[str]:
    return [sample.prompt[0].content for sample in task.samples(split, **options)]


def test_sample_is_the_prompt_and_the_chosen_answer(tmp_path: Path) -> None:
    task = read_task(make(tmp_path))
    sample = task.samples("test")[3]
    assert [(one.role, one.content) for one in sample.messages] == [
        ("user", "Review: film number 3\nSentiment:"),
        ("assistant", "positive"),
    ]
    assert sample.choices == ("negative", "positive") and sample.references == ("positive",)
    assert (task.metric, task.family, task.target_delimiter) == ("acc", tmp_path.name, " ")


@pytest.mark.parametrize(
    ("wording", "instruction"),
    [
        ("Review: {{ text | trim }}\\nSentiment:", ("Review: ", "\nSentiment:")),
        ("{{ text }}{% if label %} Good?{% else %} Bad?{% endif %}", ("", "")),
        ("{# {{ #}Review: {{ text }}", ("", "")),
        ("text", ("", "")),
    ],
)
def test_the_instruction_is_what_the_wording_says_of_every_row(
    tmp_path: Path, wording: str, instruction: tuple[str, str]
) -> None:
    body = f'doc_to_text: "{wording}"\ndoc_to_choice: [negative, positive]\ndoc_to_target: label\n'
    assert {sample.instruction for sample in read_task(make(tmp_path, HEAD + body)).samples("test")} == {instruction}


def test_lm_eval_file_of_supported_keys_loads_unchanged(tmp_path: Path) -> None:
    task = read_task(
        make(
            tmp_path,
            """
            tag: sentiment
            task: reviews
            dataset_path: json
            dataset_name: null
            dataset_kwargs:
              data_files: {train: train.jsonl, validation: test.jsonl}
            output_type: generate_until
            training_split: train
            validation_split: validation
            doc_to_text: text
            doc_to_target: "{{ ['negative', 'positive'][label] }}"
            target_delimiter: "\\n"
            generation_kwargs:
              until: "\\n\\n"
              max_gen_toks: 8
            metric_list:
              - metric: exact_match
                aggregation: mean
                higher_is_better: true
            metadata:
              version: 1.0
            """,
        )
    )
    assert {sample.delimiter for sample in task.samples("test")} == {"\n"}
    assert (task.tag, task.until, task.max_gen_toks, task.metric) == (
        ("sentiment",),
        ("\n\n",),
        8,
        "exact_match",
    )
    # As there, the validation split gives the scores where no test split is named ...
    assert prompts(task, "test")[0] == "film number 0"
    # ... so that it must not be the dev split as well.
    assert len(task.samples("dev")) == 20


def test_bare_column_name_is_that_column_even_with_braces_in_it(tmp_path: Path) -> None:
    rows = [{"text": "a {{ brace }}", "reply": "ok"}]
    task = read_task(make(tmp_path, HEAD + "doc_to_text: text\ndoc_to_target: reply\n", rows))
    assert prompts(task, "test") == ["a {{ brace }}"]


def test_misspelt_column_in_a_template_names_file_key_and_columns(tmp_path: Path) -> None:
    path = make(tmp_path, HEAD + BODY.replace("text | trim", "texd | trim"))
    (line,) = errors(path)
    assert line == (
        "7: doc_to_text: 'texd' is undefined; the columns are: text, label, choices, score; "
        "did you mean 'text'? (row 1 of test)"
    )


def test_misspelt_bare_column_is_not_taken_for_text(tmp_path: Path) -> None:
    (line,) = errors(make(tmp_path, HEAD + "doc_to_text: texd\ndoc_to_target: label\n"))
    assert line.startswith("6: doc_to_text: there is no column 'texd'; the columns are: text, ")


@pytest.mark.parametrize(
    "template",
    ["{{ text.__class__.__mro__ }}", "{{ choices.append('x') }}", "{{ ''.__init__.__globals__ }}"],
)
def test_template_that_reaches_out_of_the_sandbox_is_refused(tmp_path: Path, template: str) -> None:
    (line,) = errors(make(tmp_path, HEAD + f'doc_to_text: "{template}"\ndoc_to_target: text\n'))
    assert "doc_to_text: " in line and ("unsafe" in line or "not safely callable" in line)


def test_template_cannot_draw_random_numbers(tmp_path: Path) -> None:
    (line,) = errors(make(tmp_path, HEAD + 'doc_to_text: "{{ choices | random }}"\ndoc_to_target: text\n'))
    assert line == "6: doc_to_text: No filter named 'random'."


def test_all_mistakes_of_a_file_come_at_once_in_order_with_suggestions(tmp_path: Path) -> None:
    text = """\
    task: reviews
    dataset_path: json
    num_fewshot: 3
    doc_to_text: ["{{ text", "{{ text }}\\n{% if %}"]
    doc_to_target: label
    doc_to_choice: [no, yes]
    output_typ: multiple_choice
    metric_list: [{metric: accc}]
    generation_kwargs: {max_gen_tok: 3}
    """
    path = make(tmp_path, text)
    boolean = "YAML reads a bare yes, no, on, off, true or false as a boolean: put it in quotes"
    assert errors(path) == [
        "3: num_fewshot: not supported in a training task",
        "4: doc_to_text.0: unexpected end of template, expected 'end of print statement'.",
        "4: doc_to_text.1: Expected an expression, got 'end of statement block' in line 2 of the template",
        f"6: doc_to_choice.0: Input should be a valid string; {boolean}",
        f"6: doc_to_choice.1: Input should be a valid string; {boolean}",
        "7: output_typ: unknown key; did you mean 'output_type'?",
        "8: metric_list.0.metric: unknown metric 'accc'; did you mean 'acc'?",
        "9: generation_kwargs.max_gen_tok: unknown key; did you mean 'max_gen_toks'?",
    ]


def test_yaml_tags_are_refused_by_name(tmp_path: Path) -> None:
    path = make(tmp_path, "task: reviews\nprocess_docs: !function utils.f\ndoc_to_text: !function utils.g\n")
    assert errors(path) == [
        "2: !function: not supported in a training task",
        "3: !function: not supported in a training task",
    ]


@pytest.mark.parametrize("key", ["fewshot_config", "filter_list", "process_docs", "description", "include"])
def test_unsupported_key_is_refused_by_name(tmp_path: Path, key: str) -> None:
    assert f"6: {key}: not supported in a training task" in errors(make(tmp_path, HEAD + f"{key}: x\n" + BODY))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("doc_to_text: text\n", "6: doc_to_text: needs doc_to_target as well"),
        ("doc_to_target: text\n", "6: doc_to_target: needs doc_to_text as well"),
        ("doc_to_text: a\ndoc_to_target: b\nmessages: c\n", "8: messages: give this, or doc_to_text"),
        ("output_type: multiple_choice\n", "6: output_type: multiple_choice needs doc_to_choice"),
        (
            "metadata: {dedupliate: true}\n",
            "6: metadata.dedupliate: unknown key; did you mean 'deduplicate'?",
        ),
        ('metadata: {local: {columns: {a: "{{ x"}}}\n', "6: metadata.local.path: this key is required"),
        (
            "doc_to_text: [a, b]\ndoc_to_target: c\nmetadata: {local: {path: x, doc_to_text: a}}\n",
            "8: metadata.local.doc_to_text: needs as many wordings as doc_to_text",
        ),
    ],
)
def test_keys_that_do_not_go_together_are_refused(tmp_path: Path, body: str, message: str) -> None:
    assert errors(make(tmp_path, HEAD + body))[0].startswith(message)


def test_answer_may_be_an_index_or_the_choice_itself(tmp_path: Path) -> None:
    by_name = BODY.replace("label", "\"{{ ['negative', 'positive'][label] }}\"")
    by_text = BODY.replace("label", '"{{ label }}"')
    wanted = [sample.answer for sample in read_task(make(tmp_path / "a")).samples("test")]
    for name, body in (("b", by_name), ("c", by_text)):
        task = read_task(make(tmp_path / name, HEAD + body))
        assert [sample.answer for sample in task.samples("test")] == wanted


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (-1, "-1 is no index into the 2 choices; rows without a label can be left out by metadata.where"),
        (2, "2 is no index into the 2 choices"),
        ("maybe", "the answer 'maybe' is none of 'negative', 'positive'"),
        (None, "the column 'label' is empty"),
    ],
)
def test_answer_outside_the_choices_is_an_error(tmp_path: Path, label: Any, message: str) -> None:
    (line,) = errors(make(tmp_path, rows=[{"text": "x", "label": 0}, {"text": "y", "label": label}]))
    assert line.startswith(f"9: doc_to_target: {message}") and line.endswith("(row 2 of test)")


def test_digit_that_is_an_index_and_another_choice_is_not_guessed(tmp_path: Path) -> None:
    body = 'doc_to_text: text\ndoc_to_choice: ["1", "0"]\ndoc_to_target: "{{ label }}"\n'
    assert "also a choice at another place" in errors(make(tmp_path, HEAD + body))[0]


@pytest.mark.parametrize("null", [None, float("nan")])
@pytest.mark.parametrize("target", ["a", "{{ a }}", "{{ a | trim }}", "{{ 'is ' ~ a }}", "{{ [a] | join }}"])
def test_null_is_not_taught_as_the_word_none(tmp_path: Path, target: str, null: Any) -> None:
    rows = [{"q": "x0", "a": "yes"}, {"q": "x1", "a": null}]
    (line,) = errors(make(tmp_path, HEAD + f'doc_to_text: q\ndoc_to_target: "{target}"\n', rows))
    assert line.startswith("7: doc_to_target: ") and "'a' is empty" in line and line.endswith("(row 2 of test)")


def test_a_template_may_say_what_stands_for_a_null(tmp_path: Path) -> None:
    rows = [{"q": "x1", "a": None}]
    body = "doc_to_text: q\ndoc_to_target: \"{{ 'none' if a is none else a }}{{ a or '!' }}\"\n"
    assert read_task(make(tmp_path, HEAD + body, rows)).samples("test")[0].answer == "none!"


@pytest.mark.parametrize("column", ["Subject Line", "subject-line", "a.b", "2nd"])
def test_a_column_whose_name_is_not_one_word_is_reached_through_row(tmp_path: Path, column: str) -> None:
    body = f"doc_to_text: '{{{{ row[\"{column}\"] | trim }}}}'\ndoc_to_target: label\n"
    task = read_task(make(tmp_path, HEAD + body, [{column: "hi", "label": "x"}]))
    assert prompts(task, "test") == ["hi"]


@pytest.mark.parametrize("template", ["{{ Subject Line }}", "{{ Subject Line | trim }}", "{{ Subject-Line }}"])
def test_a_column_name_with_a_space_in_a_template_gets_the_way_to_write_it(tmp_path: Path, template: str) -> None:
    rows = [{template.strip("{} ").removesuffix(" | trim"): "hi", "label": "x"}]
    (line,) = errors(make(tmp_path, HEAD + f'doc_to_text: "{template}"\ndoc_to_target: label\n', rows))
    assert line.startswith("6: doc_to_text: ") and 'is written {{ row["Subject' in line


def test_a_column_called_row_stays_that_column(tmp_path: Path) -> None:
    body = 'doc_to_text: "{{ row }}"\ndoc_to_target: label\n'
    task = read_task(make(tmp_path, HEAD + body, [{"row": "r", "label": "x"}]))
    assert prompts(task, "test") == ["r"]


def test_where_leaves_out_rows_without_a_label(tmp_path: Path) -> None:
    rows = [{"text": "x", "label": -1}, {"text": "y", "label": 1}]
    text = HEAD + BODY + 'metadata: {where: "{{ label >= 0 }}"}\n'
    assert prompts(read_task(make(tmp_path, text, rows)), "test") == ["Review: y\nSentiment:"]


def test_choices_may_come_from_the_row(tmp_path: Path) -> None:
    for number, choices in enumerate(("choices", "\"{{ [text, 'other'] }}\"")):
        body = f"doc_to_text: text\ndoc_to_choice: {choices}\ndoc_to_target: label\n"
        task = read_task(make(tmp_path / str(number), HEAD + body))
        assert task.labels == ()
    assert task.samples("test")[2].choices == ("film number 2", "other")


def test_references_hold_the_answer_first_and_every_other_once(tmp_path: Path) -> None:
    rows = [{"text": "q", "answers": {"text": ["b", "a", "b"]}, "all": ["b", "a", "b"]}]
    template = 'doc_to_target: "{{ answers.text[0] }}"\nmetadata: {references: "{{ answers.text }}"}\n'
    for number, body in enumerate((template, "doc_to_target: all\n")):
        task = read_task(make(tmp_path / str(number), HEAD + "doc_to_text: text\n" + body, rows))
        assert task.samples("test")[0].references == ("b", "a")


def test_dev_is_a_tenth_of_train_and_shares_no_text_with_it(tmp_path: Path) -> None:
    # Each row stands twice, so that splitting rows one by one would leak.
    task = read_task(make(tmp_path, rows=REVIEWS + REVIEWS))
    train, dev = prompts(task), prompts(task, "dev")
    assert (len(train), len(dev)) == (360, 40)
    assert not set(train) & set(dev)


def test_turns_of_a_dialogue_stay_together(tmp_path: Path) -> None:
    turns = [(turn, name) for name in range(40) for turn in range(5)]
    rows = [{"text": f"turn {turn} of {name}", "state": "None", "name": name} for turn, name in turns]
    keys = "doc_to_text: text\ndoc_to_target: state\nmetric_list: [{metric: dsem}]\nmetadata: {dialogue: name}\n"
    task = read_task(make(tmp_path, HEAD + keys, rows))

    def dialogues(samples: list[Sample]) -> Counter[str]:
        return Counter(sample.dialogue for sample in samples)

    train, dev = dialogues(task.samples("train")), dialogues(task.samples("dev"))
    assert set(train.values()) == set(dev.values()) == {5}
    assert (len(train), len(dev)) == (36, 4)
    # Two whole dialogues, and the first turns of a third.
    some = task.samples("test", limit=13)
    assert sorted(dialogues(some).values()) == [3, 5, 5]
    whole = task.samples("test")
    assert [one for one in whole if one in some] == some
    cut = next(name for name, turns in dialogues(some).items() if turns == 3)
    assert [one for one in some if one.dialogue == cut] == [one for one in whole if one.dialogue == cut][:3]


def test_dev_and_limit_do_not_depend_on_the_order_of_rows_or_on_the_seed(tmp_path: Path) -> None:
    task, turned = read_task(make(tmp_path / "a")), read_task(make(tmp_path / "b", rows=REVIEWS[::-1]))
    for split in ("dev", "test", "train"):
        kept = prompts(task, split, limit=12)
        assert len(kept) == 12
        assert prompts(turned, split, limit=12, seed=5) == kept[::-1]
    assert set(prompts(task, "test", limit=5)) < set(prompts(task, "test", limit=12))


def test_named_validation_split_is_dev_and_leaves_train_whole(tmp_path: Path) -> None:
    text = HEAD.replace("test: test.jsonl", "test: test.jsonl, held: test.jsonl") + "validation_split: held\n" + BODY
    task = read_task(make(tmp_path, text))
    assert (len(task.samples("train")), len(task.samples("dev"))) == (200, 200)


def test_wording_is_spread_over_rows_and_fixed_by_row_and_seed(tmp_path: Path) -> None:
    texts = HEAD + 'doc_to_text: ["A {{ text }}", "B {{ text }}", "C {{ text }}"]\ndoc_to_target: label\n'
    task = read_task(make(tmp_path, texts))
    first = prompts(task, seed=1)
    shares = Counter(prompt[0] for prompt in first)
    assert set(shares) == {"A", "B", "C"} and min(shares.values()) > 35
    assert prompts(task, seed=1) == first != prompts(task, seed=2)
    assert [prompt[1:] for prompt in prompts(task, seed=2)] == [prompt[1:] for prompt in first]
    for split in ("dev", "test"):
        assert prompts(task, split, seed=1) == prompts(task, split, seed=2)
        assert len({prompt[0] for prompt in prompts(task, split)}) == 3
    assert set(prompts(task, seed=1, limit=9)) <= set(first)


def test_deduplicate_keeps_the_first_of_equal_rows(tmp_path: Path) -> None:
    rows = [*REVIEWS, *REVIEWS[:50]]
    for number, (extra, count) in enumerate((("", 250), ("metadata: {deduplicate: true}\n", 200))):
        task = read_task(make(tmp_path / str(number), HEAD + BODY + extra, rows))
        assert len(task.samples("train")) + len(task.samples("dev")) == count
        assert task.count("train") == len(task.samples("train"))
    order = [int(prompt.split()[3]) for prompt in prompts(task)]
    assert order == sorted(order)


def test_seven_thousand_rows_take_less_than_a_second(tmp_path: Path) -> None:
    rows = [{"text": f"film number {n}", "label": n % 2} for n in range(7000)]
    task = read_task(make(tmp_path, rows=rows))
    started = time.process_time()
    task.samples("train")
    assert time.process_time() - started < 1


def test_users_file_wins_over_a_shipped_one_with_a_notice(tmp_path: Path) -> None:
    path = make(tmp_path, (HEAD + BODY).replace("task: reviews", "task: sst"))
    with pytest.warns(UserWarning, match=r"'sst' is .*reviews.yaml, which hides .*sst.yaml"):
        assert find_task("sst", [tmp_path]).file == path
    assert find_task("sst").family == "lamol"
    assert [task.file for task in list_tasks([tmp_path]) if task.task == "sst"] == [path]


def test_the_notice_comes_once_and_only_where_another_file_is_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        # The shipped folder by other names: it hides nothing.
        (tmp_path / "link").symlink_to(shipped("tasks"))
        monkeypatch.chdir(shipped("tasks").parent)
        for folders in ([Path("tasks")], [Path("tasks"), Path("tasks/../tasks")], [tmp_path / "link"]):
            assert find_task("sst", folders).family == "lamol"
        assert not seen
        make(tmp_path / "own", (HEAD + BODY).replace("task: reviews", "task: sst"))
        for _ in range(3):
            find_task("sst", [tmp_path / "own"])
            find_task("sst", [tmp_path / "own", Path("tasks")])
        assert len(seen) == 1


def test_broken_file_hurts_only_its_own_task(tmp_path: Path) -> None:
    make(tmp_path, "task: other\ndoc_to_text: [\n")
    assert find_task("sst", [tmp_path]).task == "sst"
    with pytest.raises(ContinualError, match="not valid YAML"):
        find_task("other", [tmp_path])


def test_two_files_of_one_folder_cannot_claim_one_name(tmp_path: Path) -> None:
    make(tmp_path)
    make(tmp_path / "more")
    with pytest.raises(ContinualError, match="'reviews' is already the name of"):
        find_task("reviews", [tmp_path])


def test_unknown_task_gets_a_suggestion() -> None:
    with pytest.raises(ContinualError, match="unknown task 'olora_agnew'; did you mean 'olora_agnews'?"):
        find_task("olora_agnew")


ONE_FILE = HEAD.replace(", test: test.jsonl", "").replace("test_split: test\n", "")


@pytest.mark.parametrize("where", ["data_files", "folder"])
def test_a_test_part_is_held_out_of_one_file_by_a_fixed_hash_and_said(tmp_path: Path, where: str) -> None:
    path = make(tmp_path, ONE_FILE + BODY)
    if where == "folder":
        (tmp_path / "test.jsonl").unlink()
        path.write_text(f"task: reviews\ndataset_path: .\n{BODY}", encoding="utf-8")
    task = read_task(path)
    parts = {split: set(prompts(task, split)) for split in ("train", "dev", "test")}
    assert [len(part) for part in parts.values()] == [144, 16, 40]
    assert len(set.union(*parts.values())) == 200
    assert task.notices() == [
        "reviews: the data have no test part: 40 of 200 rows are held out for it by a fixed hash, and not trained on"
    ]
    turned = read_task(make(tmp_path / "turned", ONE_FILE + BODY, REVIEWS[::-1]))
    assert set(prompts(turned, "test", seed=7)) == parts["test"]


@pytest.mark.parametrize(("rows", "count"), [(1000, 100), (400, 50), (100, 20), (10, 2)])
def test_the_held_out_part_is_a_tenth_or_of_few_rows_a_fifth(tmp_path: Path, rows: int, count: int) -> None:
    many = [{"text": f"film {n}", "label": n % 2} for n in range(rows)]
    assert read_task(make(tmp_path, ONE_FILE + BODY, many)).count("test") == count


def test_a_test_split_that_is_named_but_missing_is_not_made_up(tmp_path: Path) -> None:
    assert "has no split 'test'" in errors(make(tmp_path, ONE_FILE + "test_split: test\n" + BODY))[0]
    (line,) = errors(make(tmp_path, HEAD.replace("test: test.jsonl", "tests: test.jsonl") + BODY))
    assert "did you mean 'tests'?" in line


@pytest.mark.parametrize(
    "head",
    [
        HEAD.replace("test_split: test", "test_split: train"),
        HEAD.replace("test_split: test", "validation_split: train"),
        HEAD.replace("test: test.jsonl", "test: train.jsonl"),
        HEAD.replace("test: test.jsonl", "test: [other.jsonl, ./train.jsonl]"),
    ],
)
def test_training_rows_are_not_taken_for_test_rows(tmp_path: Path, head: str) -> None:
    (line,) = errors(make(tmp_path, head + BODY))
    assert "are the training rows" in line


def test_test_rows_that_stand_in_train_are_counted_and_said(tmp_path: Path) -> None:
    path = make(tmp_path)
    fresh = [{"text": f"other {n}", "label": 0} for n in range(5)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*REVIEWS[:7], *fresh]))
    assert read_task(path).notices() == [
        "reviews: 7 of 12 test rows stand in the training data too, prompt and answer: "
        "their scores say what was memorized"
    ]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in fresh))
    assert read_task(path).notices() == []


def test_many_tasks_are_found_by_one_look_at_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        make(tmp_path, (HEAD + BODY).replace("task: reviews", f"task: t{number}")).rename(tmp_path / f"{number}.yaml")
    recipe = tmp_path / "many.yaml"
    recipe.write_text(
        f"model_name_or_path: builtin:tinyworld\ncurriculum: [{', '.join(f't{n}' for n in range(30))}]\n"
        "training: {learning_rate: 1e-3, tokens_per_batch: 512}\n"
        "sweep: {training.num_train_epochs: [1, 2, 3]}\n"
    )
    read = Counter[Path]()
    real = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self, *a, **k: read.update([self]) or real(self, *a, **k))
    load_recipe(str(recipe), folders=[tmp_path])
    assert max(read[tmp_path / f"{number}.yaml"] for number in range(30)) == 2  # for its name, and as a task


@pytest.mark.slow
def test_a_recipe_of_many_tasks_is_checked_in_seconds(tmp_path: Path) -> None:
    for number in range(1800):
        text = (HEAD + BODY).replace("task: reviews", f"task: t{number}").replace("Review:", f"Review {number}:")
        (tmp_path / f"{number}.yaml").write_text(text)
    recipe = tmp_path / "many.yaml"
    recipe.write_text(
        f"model_name_or_path: builtin:tinyworld\ncurriculum: [{', '.join(f't{n}' for n in range(1800))}]\n"
        "training: {learning_rate: 1e-3, tokens_per_batch: 512}\n"
    )
    started = time.process_time()
    assert len(load_recipe(str(recipe), folders=[tmp_path]).tasks) == 1800
    assert time.process_time() - started < 5
