"""A task file for data as they are: what each column seems to be, shown, confirmed and written."""

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from continual.errors import ContinualError
from continual.problems import did_you_mean
from continual.rowfiles import LARGE, READ_OFF, SUFFIXES, Row, open_rows, read_file, size_of
from continual.sample import Sample
from continual.task import Task, parse_task
from continual.wording import is_null

if TYPE_CHECKING:
    from rich.console import Console

Form = Literal["conversation", "classification", "choices", "score", "generation"]

SHOWN = 3
"""Samples that are shown before anything is written."""

_HEAD = 20_000
"""Rows of a large file that the guesses rest on."""

_MOST_LABELS = 50
_LISTED_LABELS = 20
"""Up to so many labels are named in the prompt."""

_ANSWERS = (
    "label labels class category topic sentiment intent emotion polarity answer answers answerkey output response "
    "completion target reply gold summary highlights headline translation score similarity rating stars y"
).split()
_PROMPTS = (
    "text sentence sentence1 sentence2 review content body comment message question query input prompt instruction "
    "context passage document article dialogue source premise hypothesis title subject tweet post"
).split()
_SET_ASIDE = (
    "id idx index uid uuid guid key url link date time timestamp created_at updated_at author user username split "
    "column_1"
).split()
_CHOICES = ("choices", "options", "endings")
_GENERIC = ("answer", "answers", "output", "response", "completion", "target", "reply", "gold")
_RESERVED = frozenset(
    "and or not in is if else elif for true false none True False None loop self row range dict "
    "cycler joiner namespace import include block set".split()
)


@dataclass(frozen=True)
class Column:
    """A column of the rows, as far as they were looked at."""

    name: str
    values: Sequence[Any]
    """Those that are neither null nor empty."""
    missing: int
    """How many rows have none."""

    @property
    def title(self) -> str:
        """The name as a prompt would write it."""
        words = re.sub(r"[_\-.]+", " ", self.name).strip()
        return words[:1].upper() + words[1:]

    @property
    def key(self) -> str:
        """The name in lower case, for comparisons."""
        return re.sub(r"[\s_\-]+", "_", self.name.strip().lower())

    @property
    def is_named_prompt(self) -> bool:
        return any(part in _PROMPTS for part in (self.key, *self.key.split("_")))

    @property
    def answer_rank(self) -> int | None:
        """How much the name says that this is the answer, 0 the most; None where it does not."""
        names = [name for name in (self.key, self.key.split("_")[-1]) if name in _ANSWERS]
        return _ANSWERS.index(names[0]) if names else None

    @property
    def is_text(self) -> bool:
        return bool(self.values) and all(isinstance(value, str) for value in self.values)

    @property
    def is_number(self) -> bool:
        return bool(self.values) and all(_number(value) is not None for value in self.values)

    @property
    def words(self) -> float:
        """Words of a value, on average; a Chinese or Japanese character counts as half a word."""
        return sum(map(_word_count, self.values)) / max(1, len(self.values))

    @property
    def labels(self) -> dict[str, int]:
        """Each value as text, and how often it comes, the most frequent first."""
        return dict(Counter(map(str, self.values)).most_common())

    @property
    def is_label(self) -> bool:
        """Whether the values are few and short, and come again."""
        if not self.values or not all(isinstance(value, str | int | bool) for value in self.values):
            return False
        labels = self.labels
        few = 2 <= len(labels) <= min(_MOST_LABELS, len(self.values) / 2)
        return few and max(map(len, labels)) <= 60 and self.words <= 4

    @property
    def is_set_aside(self) -> bool:
        """Whether it names or dates rows."""
        counts = self.is_number and not self.is_label and len(set(map(str, self.values))) == len(self.values)
        return self.key in _SET_ASIDE or self.key.endswith("_id") or (counts and self.key not in _ANSWERS)

    @property
    def reference(self) -> str:
        """The column in a template."""
        plain = self.name.isidentifier() and self.name not in _RESERVED
        return self.name if plain else f"row[{json.dumps(self.name, ensure_ascii=False)}]"


@dataclass(frozen=True)
class Guess:
    """What a task of these rows would be."""

    form: Form
    how: str
    """The form in words."""
    prompt: tuple[Column, ...] = ()
    answer: Column | None = None
    choices: tuple[str, ...] | str | None = None
    """A label set, or a column or template of each row's own."""
    target: str = ""
    references: str = ""
    messages: str = ""
    """The column of conversations, where its name is not one of the usual ones."""
    metric: str = ""
    longest: int = 0
    """Bytes of the longest answer."""
    aside: tuple[str, ...] = ()
    """Columns that are not read, apart from those beside conversations, of which the task tells."""


@dataclass(frozen=True)
class Request:
    """What the user asks for."""

    name: str
    file: Path
    folder: Path = Path("tasks")
    prompt: tuple[str, ...] = ()
    """Columns of the prompt; empty: guessed."""
    answer: str | None = None
    """The column of the answer; None: guessed."""
    yes: bool = False
    """Write without asking, but never over a file."""

    @property
    def path(self) -> Path:
        """The task file."""
        return self.folder / f"{self.name}.yaml"


def new_task(request: Request, console: "Console") -> None:
    """Guess a task from a file, show it, and write its task file when that is wanted.

    Raises:
        ContinualError: the file cannot be read or used, the task file exists and may not be replaced, or
            nobody is there to be asked.
    """
    _check(request)
    files = data_files(request.file)
    rows = _rows(files["train"])
    asking = sys.stdin.isatty() and not request.yes
    guess = guess_task(rows, request.prompt, request.answer)
    if asking and guess.answer is not None:
        columns = ", ".join(dict.fromkeys(name for row in rows for name in row))
        console.print(f"{files['train']}: {len(rows):,} rows of {columns}", highlight=False, markup=False)
        guess = _asked(rows, guess)
    # Before the folder is there, no path leads out of it.
    task = parse_task(task_text(request.name, guess, _data(files), rows), request.path)
    samples = task.samples("train", limit=SHOWN)
    _show(request, task, guess, samples, console)
    if not request.yes:
        _confirm(request.path, asking)
    request.folder.mkdir(parents=True, exist_ok=True)
    text = task_text(request.name, guess, _data(files, request.folder), rows)
    request.path.write_text(text, encoding="utf-8")
    for line in (
        f"wrote {request.path}; change in it what is not as you mean it, then",
        f"  continual show {request.path}",
        f"  continual run quickstart 'curriculum=[{request.name}]' --tasks {request.folder} --dry-run",
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def data_files(file: Path) -> dict[str, Path]:
    """Return the files of each split: the one given, or train and test of a folder or side by side.

    Raises:
        ContinualError: there is no such file, or a folder without a training file.
    """
    if file.is_dir():
        names = [f"train{suffix}{packed}" for suffix in SUFFIXES for packed in ("", ".gz")]
        inside = [file / name for name in names if (file / name).is_file()]
        if not inside:
            raise ContinualError(f"{file}: has no training file, such as train.csv or train.jsonl; name a file")
        file = inside[0]
    if not file.is_file():
        raise ContinualError(f"{file}: no such file")
    test = file.with_name(re.sub(r"(^|[_.\-])train(?=[_.\-])", r"\1test", file.name, count=1))
    return {"train": file, **({"test": test} if test != file and test.is_file() else {})}


def guess_task(rows: Sequence[Row], prompt: Sequence[str] = (), answer: str | None = None) -> Guess:
    """Guess what a task of these rows would be.

    Args:
        rows: the rows, or the first of them.
        prompt: columns of the prompt, where they are known.
        answer: the column of the answer, where it is known.

    Raises:
        ContinualError: no column can be the answer, or a named one does not exist.
    """
    columns = _columns(rows)
    by_name = {column.name: column for column in columns}
    for name in (*prompt, *((answer,) if answer else ())):
        if name not in by_name:
            names = ", ".join(by_name)
            raise ContinualError(f"there is no column '{name}'; the columns are: {names}{did_you_mean(name, by_name)}")
    if not prompt and not answer:
        if {"chosen", "rejected"} <= set(by_name):
            raise ContinualError(
                "the rows are preferences (chosen, rejected), which are not read; to teach what was chosen, give "
                "--prompt and --answer chosen"
            )
        talk = _conversation(columns)
        if talk is not None:
            return talk
    target = by_name[answer] if answer else _answer_of(columns, prompt)
    if target is None:
        raise ContinualError(
            "which column is the answer? give --answer NAME (and --prompt NAME); "
            f"the columns are: {', '.join(by_name)}"
        )
    chosen = [by_name[name] for name in prompt] or _prompt_of(columns, target)
    if not chosen:
        raise ContinualError(f"which column is the prompt? give --prompt NAME; the columns are: {', '.join(by_name)}")
    return _of_columns(columns, tuple(chosen), target)


def task_text(name: str, guess: Guess, data: str, rows: Sequence[Row]) -> str:
    """Write the task file.

    Args:
        data: its lines on where the rows are.
        rows: what was guessed from, for the comments.
    """
    lines = [
        f"# {guess.how}; written by `continual new` from {len(rows):,} rows. All keys: docs/tasks.md",
        "",
        f"task: {name}",
        data,
    ]
    lines += _question_lines(guess)
    if guess.form == "choices":
        lines += ["output_type: multiple_choice     # the choice with the highest likelihood is the answer"]
    else:
        # A tokenizer of few words takes a token for each byte, and writing stops at the end token anyway.
        most = guess.longest if guess.longest <= 32 else guess.longest // 2
        tokens = min(1024, max(8, 1 << (most - 1).bit_length()))
        longest = f"the longest answer here has {guess.longest:,} bytes"
        lines += [f"generation_kwargs: {{max_gen_toks: {tokens}}}     # {longest}"]
    lines += [f"metric_list: [{{metric: {guess.metric}}}]     # {_METRIC_WORDS[guess.metric]}"]
    lines += [f"metadata:\n  version: 1.0\n  summary: {_quoted(_summary(guess))}"]
    if isinstance(guess.choices, tuple) and _are_no_indices(guess.choices):
        lines += [f"  labels: [{', '.join(map(_quoted, guess.choices))}]     # all answers there are"]
    if guess.references:
        lines += [f"  references: {_quoted(guess.references)}     # every answer that counts as right"]
    if guess.answer is not None and guess.answer.missing:
        where = f"{{{{ {guess.answer.reference} not in [none, ''] }}}}"
        lines += [f"  where: {_quoted(where)}     # {guess.answer.missing:,} rows have no answer"]
    return "\n".join(lines) + "\n"


_METRIC_WORDS = {
    "acc": "the share of answers that are right",
    "exact_match": "equal, but for case, articles and punctuation",
    "f1": "overlap of words with the answer",
    "rouge_l": "overlap with the answer, in order",
    "bleu": "overlap of phrases with the answer",
    "pearson": "correlation with the score",
}


# ---------------------------------------------------------------- guessing


def _columns(rows: Sequence[Row]) -> list[Column]:
    names = dict.fromkeys(name for row in rows for name in row)
    columns = []
    for name in names:
        values = [row.get(name) for row in rows]
        present = [value for value in values if not is_null(value) and value != ""]
        columns.append(Column(name, present, len(values) - len(present)))
    return columns


def _conversation(columns: Sequence[Column]) -> Guess | None:
    """The guess for rows that hold conversations in a form that is read as it is."""
    by_name = {column.name: column for column in columns}
    turns = [column for column in columns if column.values and all(map(_is_turns, column.values))]
    usual = next((name for name in ("messages", "conversations") if by_name.get(name) in turns), None)
    kinds = {"messages": "Conversations (messages)", "conversations": "Conversations (ShareGPT)"}
    if usual is not None:
        answers, how, column = by_name[usual].values, kinds[usual], ""
    elif {"prompt", "completion"} <= set(by_name):
        answers, how, column = by_name["completion"].values, "Prompts and completions (TRL)", ""
    elif {"instruction", "output"} <= set(by_name):
        answers, how, column = by_name["output"].values, "Instructions (Alpaca)", ""
    elif turns:
        column = turns[0].name
        answers, how = turns[0].values, f"Conversations in the column '{column}'"
    else:
        return None
    texts = [_last(value) for value in answers]
    short = sum(map(_word_count, texts)) / max(1, len(texts)) <= 3
    return Guess(
        form="conversation",
        how=how,
        messages=column,
        metric="exact_match" if short else "rouge_l",
        longest=max((len(text.encode()) for text in texts), default=0),
    )


def _answer_of(columns: Sequence[Column], prompt: Sequence[str]) -> Column | None:
    """The column that looks most like an answer; None where none does."""
    free = [column for column in columns if column.name not in prompt and not column.is_set_aside]
    free = [column for column in free if column.key not in _CHOICES and len(set(map(str, column.values))) > 1]
    if len(free) < 2 and not prompt:
        return None
    named = [(column.answer_rank, place) for place, column in enumerate(free) if column.answer_rank is not None]
    if named:
        return free[min(named)[1]]
    labels = [column for column in free if column.is_label and not column.is_named_prompt]
    if labels:
        return labels[-1]
    texts = [column for column in free if column.is_text and not column.is_named_prompt]
    return texts[-1] if texts else None


def _prompt_of(columns: Sequence[Column], answer: Column) -> list[Column]:
    free = [c for c in columns if c is not answer and c.is_text and not c.is_set_aside]
    named = [column for column in free if column.is_named_prompt]
    return named or [column for column in free if column.words >= 3] or free[:1]


def _of_columns(columns: Sequence[Column], prompt: tuple[Column, ...], answer: Column) -> Guess:
    """The guess for rows with columns for the prompt and the answer."""
    options = next((c for c in columns if c.key in _CHOICES and c not in (answer, *prompt)), None)
    read = {answer.name, *(column.name for column in prompt), *((options.name,) if options else ())}
    aside = tuple(column.name for column in columns if column.name not in read)
    target = _target(answer)
    longest = max((len(text.encode()) for text in map(_last, answer.values)), default=0)
    guess = Guess("generation", "Answers to write", prompt, answer, target=target, longest=longest, aside=aside)
    if options is not None:
        own = _own_choices(options, answer)
        if own is not None:
            choices, target = own
            return replace(guess, form="choices", how="Multiple choice", choices=choices, target=target, metric="acc")
    if answer.is_label and not _is_score(answer):
        labels = _sorted_labels(answer.labels)
        return replace(
            guess,
            form="classification",
            how=f"Classification, {len(labels)} labels",
            choices=labels,
            target=_label_target(answer),
            metric="acc",
        )
    if answer.is_number and len(answer.labels) > 2:
        return replace(guess, form="score", how="A score", metric="pearson")
    references = ""
    first = answer.values[0]
    if isinstance(first, dict) and isinstance(first.get("text"), list):
        target, references = f"{{{{ {answer.reference}.text[0] }}}}", f"{{{{ {answer.reference}.text }}}}"
    words = sum(_word_count(_last(value)) for value in answer.values) / max(1, len(answer.values))
    metric = "exact_match" if words <= 3 else "f1" if words <= 8 else "rouge_l"
    if references or isinstance(first, list):
        metric = "f1"
    if answer.key == "translation":
        metric = "bleu"
    return replace(guess, target=target, references=references, metric=metric)


def _own_choices(options: Column, answer: Column) -> tuple[str, str] | None:
    """Choices and target of rows that bring their own choices; None where the answer is none of them."""
    if all(isinstance(value, dict) and "text" in value and "label" in value for value in options.values):
        return f"{{{{ {options.reference}.text }}}}", f"{{{{ {options.reference}.label.index({answer.reference}) }}}}"
    if not all(isinstance(value, list) and all(isinstance(one, str) for one in value) for value in options.values):
        return None
    pairs = list(zip(options.values, answer.values, strict=False))
    if all(isinstance(value, int) or value in choices for choices, value in pairs):
        return options.name, answer.name
    if all(isinstance(value, str) and re.fullmatch("[A-J]", value) for _, value in pairs):
        return options.name, f"{{{{ 'ABCDEFGHIJ'.index({answer.reference}) }}}}"
    return None


def _is_score(column: Column) -> bool:
    return column.is_number and (len(column.labels) > 12 or any("." in label for label in column.labels))


def _sorted_labels(labels: Iterable[str]) -> tuple[str, ...]:
    names = sorted(labels)
    return tuple(sorted(names, key=int)) if all(re.fullmatch(r"-?\d+", name) for name in names) else tuple(names)


def _are_no_indices(labels: Sequence[str]) -> bool:
    """Whether labels are numbers that are not their own places, so that one could be taken for an index."""
    return any(label.isdigit() and label != str(place) for place, label in enumerate(labels))


def _label_target(answer: Column) -> str:
    plain = all(isinstance(value, str | int) and not isinstance(value, bool) for value in answer.values)
    return _target(answer) if plain else f"{{{{ {answer.reference} }}}}"


def _target(answer: Column) -> str:
    return answer.name if answer.name not in _RESERVED else f"{{{{ {answer.reference} }}}}"


def _is_turns(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, dict) and ("from" in turn or "role" in turn) for turn in value)
    )


def _last(value: Any) -> str:
    """The text of an answer, in whatever form the rows hold it."""
    if isinstance(value, list) and value:
        return _last(value[-1])
    if isinstance(value, dict):
        return _last(next((value[key] for key in ("content", "value", "text") if key in value), ""))
    return str(value)


def _word_count(value: Any) -> float:
    text = str(value)
    wide = len(re.findall(r"[\u3040-\u30ff\u3400-\u9fff]", text))
    return len(text.split()) + wide / 2


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


# ---------------------------------------------------------------- writing


def _question_lines(guess: Guess) -> list[str]:
    if guess.form == "conversation":
        if guess.messages:
            return [f"messages: {_quoted(guess.messages)}     # the column of conversations"]
        return ["# The rows are read as they are: no doc_to_text, no doc_to_target."]
    assert guess.answer is not None
    lines = [
        "# The prompt: Jinja, with the columns by name. Several wordings may stand here as a list.",
        f"doc_to_text: {_quoted(_wording(guess))}",
    ]
    if isinstance(guess.choices, tuple):
        labels = guess.answer.labels
        shown = ", ".join(f"{label} {labels[label]:,}" for label in guess.choices[:8])
        more = ", …" if len(guess.choices) > 8 else ""
        lines.append(f"# Rows of each: {shown}{more}" + _naming_hint(guess.choices))
        if not _are_no_indices(guess.choices):
            lines.append(f"doc_to_choice: [{', '.join(map(_quoted, guess.choices))}]")
    elif guess.choices is not None:
        lines.append(f"doc_to_choice: {_quoted(guess.choices)}     # each row brings its own")
    return [*lines, f"doc_to_target: {_quoted(guess.target)}"]


def _naming_hint(labels: Sequence[str]) -> str:
    if not all(re.fullmatch(r"-?\d+", label) for label in labels):
        return ""
    if _are_no_indices(labels):
        return ""
    return "\n# Words teach better than numbers: put the names of the classes here, in this order."


def _wording(guess: Guess) -> str:
    assert guess.answer is not None
    texts = [f"{{{{ {_filled(column)} | trim }}}}" for column in guess.prompt]
    if len(texts) > 1:
        texts = [f"{column.title}: {text}" for column, text in zip(guess.prompt, texts, strict=True)]
    text = "\n".join(texts)
    if guess.form == "classification":
        assert isinstance(guess.choices, tuple)
        listed = f" ({', '.join(guess.choices)})" if len(guess.choices) <= _LISTED_LABELS else ""
        return f"{text}\n{guess.answer.title}{_plain(listed)}:"
    if guess.form == "generation" and len(texts) == 1 and guess.answer.key in _GENERIC:
        return text
    return f"{text}\n{guess.answer.title}:"


def _filled(column: Column) -> str:
    return f"({column.reference} or '')" if column.missing else column.reference


def _plain(text: str) -> str:
    """Text that Jinja leaves alone."""
    return text.replace("{{", "{ {").replace("{%", "{ %").replace("{#", "{ #")


def _summary(guess: Guess) -> str:
    if guess.answer is None:
        return guess.how
    return f"{guess.how}: {', '.join(column.name for column in guess.prompt)} -> {guess.answer.name}"


def _data(files: dict[str, Path], folder: Path | None = None) -> str:
    """The lines on where the rows are, from a folder or by whole paths."""
    kind = Path(files["train"].name.removesuffix(".gz")).suffix.lower()
    path = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}.get(kind, "json")
    named = {split: file.resolve() for split, file in files.items()}
    if folder is not None:
        named = {split: Path(os.path.relpath(file, folder.resolve())) for split, file in named.items()}
    listed = ", ".join(f"{split}: {_quoted(file.as_posix())}" for split, file in named.items())
    lines = f"dataset_path: {path}\ndataset_kwargs: {{data_files: {{{listed}}}}}"
    if "test" in files:
        return lines + "\ntest_split: test"
    return lines + "\n# No test file: a part of the rows is held out by a fixed hash, the same in each run."


def _quoted(text: str) -> str:
    """A YAML text on one line."""
    return json.dumps(text, ensure_ascii=False)


# ---------------------------------------------------------------- asking and showing


def _check(request: Request) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", request.name):
        raise ContinualError(f"'{request.name}' is no name of a task: letters, digits, '_', '.' and '-'")
    if request.path.exists() and (request.yes or not sys.stdin.isatty()):
        raise ContinualError(f"{request.path} exists already; remove it, or take another name")


def _rows(file: Path) -> list[Row]:
    rows = open_rows([file], READ_OFF).head(_HEAD) if size_of(file) > LARGE else read_file(file)
    if not rows:
        raise ContinualError(f"{file}: has no rows")
    return rows


def _asked(rows: Sequence[Row], guess: Guess) -> Guess:
    """The guess with the columns that the user confirms or names."""
    import typer

    assert guess.answer is not None
    names = ", ".join(column.name for column in guess.prompt)
    given = typer.prompt("columns of the prompt, with commas between them", default=names)
    answer = typer.prompt("column of the answer", default=guess.answer.name)
    return guess_task(rows, tuple(name.strip() for name in given.split(",")), answer.strip())


def _confirm(path: Path, asking: bool) -> None:
    if not asking:
        raise ContinualError("nothing was written: nobody is here to be asked; --yes writes it as shown")
    import typer

    if path.exists():
        question, default = f"{path} exists already. Write over it?", False
    else:
        question, default = f"write {path}?", True
    if not typer.confirm(question, default=default):
        raise ContinualError("nothing was written")


def _show(request: Request, task: Task, guess: Guess, samples: Sequence[Sample], console: "Console") -> None:
    from rich.table import Table
    from rich.text import Text

    counts = [task.count("train"), task.count("dev"), task.count("test")]
    train, dev, test = (f"{count:,}" for count in counts if count is not None)
    console.print(Text.assemble((request.name, "bold"), f"  {guess.how}"), highlight=False)
    console.print(
        f"{train} rows to learn from, {dev} for choices, {test} for the test; scored by {guess.metric}",
        highlight=False,
        style="dim",
    )
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for column in guess.prompt:
        table.add_row("prompt", Text(column.name, style="bold"), f"{column.words:,.0f} words")
    if guess.answer is not None:
        what = f"{guess.answer.words:,.0f} words"
        if isinstance(guess.choices, tuple):
            what = ", ".join(guess.choices[:6]) + (", …" if len(guess.choices) > 6 else "")
        table.add_row("answer", Text(guess.answer.name, style="bold"), Text(what))
    if guess.aside:
        table.add_row("not read", Text(", ".join(guess.aside), style="dim"), "")
    if table.row_count:
        console.print(table)
    for notice in task.notices():
        words = notice.removeprefix(f"{request.name}: ")
        console.print(Text.assemble(("mind: ", "yellow"), words), soft_wrap=True)
    for number, sample in enumerate(samples, start=1):
        console.print(Text(f"─── {number}", style="dim"))
        for message in sample.messages:
            style = "green" if message.role == "assistant" else ""
            console.print(Text.assemble((f"{message.role}: ", "dim"), (_short(message.content), style)))
    console.print()


def _short(text: str, most: int = 600) -> str:
    if len(text) <= most:
        return text
    return f"{text[: most // 2]} … {len(text) - most:,} letters … {text[-most // 2 :]}"
