import re
import xml.etree.ElementTree as ElementTree
from html import escape
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest
from fake_run import write_arm, write_rehearsed, write_run
from rich.console import Console

from continual import losscurve, report, results
from continual.forgetting import FORMULAE
from continual.report import curves, losses, numbers, plots, svg
from continual.report.views import Row, colours, rows_of, views_of
from continual.report.words import forgotten, headline, learned

TASKS = ["translate", "edit", "answer"]
FINETUNE = [[0.0, 0.1, 0.0], [0.9, 0.1, 0.0], [0.4, 0.8, 0.1], [0.2, 0.3, 0.7]]
REHEARSAL = [[0.0, 0.1, 0.0], [0.9, 0.1, 0.0], [0.9, 0.8, 0.1], [0.88, 0.79, 0.7]]
MULTITASK = [[0.0, 0.1, 0.0], [0.9, 0.9, 0.6]]
ARMS = {"finetune": "sequential", "rehearsal": "sequential", "multitask": "multitask"}
EVIL = "<script>alert('x')</script>"


def quick(path: Path, name: str = "quick", *, seeds: tuple[int, ...] = (0,)) -> Path:
    run = write_run(path / name, ARMS, TASKS, seeds=seeds)
    for seed in seeds:
        write_arm(run, "finetune", FINETUNE, seed=seed)
        first = {"labels": 0.02, "words": 20.4, "real_words": 21.0, "bigrams": 0.41, "real_bigrams": 0.45}
        copied = {"median": 4.0, "p95": 7.0, "share": 0.3, "copied": 0.01}
        test = {"median": 4.0, "p95": 8.0, "share": 0.2, "copied": 0.02}
        rehearsed = [
            {
                "before": "edit",
                "task": "translate",
                "age": 1,
                "wanted": 80,
                "kept": 79,
                "drawn": 97,
                "valid": 79 / 97,
                "rejected": {"label": 18},
                "drift": first,
                "memorised": {**copied, "test": test},
            },
            {
                "before": "answer",
                "task": "translate",
                "age": 2,
                "wanted": 40,
                "kept": 40,
                "drawn": 40,
                "valid": 1.0,
                "rejected": {},
                "drift": {**first, "labels": 0.125, "bigrams": 0.38},
                "memorised": {**copied, "copied": 0.06, "test": test},
                "reviews": 3,
            },
        ]
        folder = write_arm(run, "rehearsal", REHEARSAL, seed=seed, rehearsed=rehearsed, cost={"seconds": 72})
        write_rehearsed(folder, "2-translate", [("Say 早安", "good\u2028morning", None), (EVIL, "no", "label")])
        write_rehearsed(folder, "3-translate", [("Later", "später", None)])
        write_arm(run, "multitask", MULTITASK, teach="multitask", seed=seed)
    return run


class Outside(HTMLParser):
    """Collects the tags of a page and everything that it would load."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "srcset", "data") or (name == "href" and not (value or "").startswith("#")):
                self.loads.append(f"{tag} {name}={value}")


def test_the_page_stands_alone_and_runs_nothing(tmp_path: Path) -> None:
    page = report.page([quick(tmp_path)])
    parser = Outside()
    parser.feed(page)
    assert parser.loads == []
    assert not parser.tags & {"script", "link", "iframe", "img", "object"}
    assert "url(" not in page and "@import" not in page
    assert {"svg", "table", "details", "style"} <= parser.tags


def test_what_a_model_wrote_is_text_and_never_markup(tmp_path: Path) -> None:
    page = report.page([quick(tmp_path)])
    assert EVIL not in page and "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in page
    assert "Say 早安" in page and "good\u2028morning" in page


def test_a_recipe_cannot_break_the_page_either(tmp_path: Path) -> None:
    run = write_run(tmp_path / "quick", {"finetune": "sequential"}, ["a", EVIL])
    write_arm(run, "finetune", [[0, 0], [1, 0], [1, 1]], tasks=["a", EVIL])
    page = report.page([run])
    assert "<script" not in page and page.count("&lt;script&gt;") > 5


def test_the_page_says_what_happened_with_every_formula_and_the_way_to_make_it_again(tmp_path: Path) -> None:
    page = report.page([quick(tmp_path)]).replace("\u00a0%", " %")  # no line ends before a sign
    assert "kept 98.8 % of what multitask reaches: 79.0 %, with 1.5 points forgotten." in page
    assert "forgot 60 points and ends at 40.0 %, 50 % of what multitask reaches." in page
    for formula in FORMULAE.values():
        assert formula.title in page and escape(formula.source) in page and formula.meaning in page
    assert "Σ<sub>j&lt;T</sub>" in page
    assert "continual run again.yaml output_dir=runs/quick-again" in page
    assert "model_name_or_path: builtin:tinyworld" in page and "2026-11-22" in page


def test_rehearsed_samples_stand_with_their_counts_and_reasons(tmp_path: Path) -> None:
    page = report.page([quick(tmp_path)])
    assert "79 kept of 80 wanted, 97 drawn; rejected: label 18" in page
    assert "40 kept of 40 wanted, 40 drawn; none rejected" in page
    assert "rejected: label</span>" in page
    assert page.index("Say 早安") < page.index("Later")


def test_several_runs_stand_side_by_side_and_an_arm_keeps_its_colour(tmp_path: Path) -> None:
    runs = [quick(tmp_path, "one"), quick(tmp_path, "two", seeds=(0, 1))]
    page = report.page(runs)
    assert "one · finetune" in page and "two · finetune" in page and "× 2" in page
    documents = [results.collect(run) for run in runs]
    palette = colours(documents)
    rows = [row for place, doc in enumerate(documents) for row in rows_of(doc, palette, first_dash=place)]
    assert {(row.arm, row.colour) for row in rows} == {("finetune", 0), ("rehearsal", 1), ("multitask", 2)}
    assert [row.dash for row in rows] == [0, 0, 0, 1, 1, 1]


def test_how_like_real_rows_the_rehearsed_ones_are_is_told_from_the_first_time_to_the_last(tmp_path: Path) -> None:
    run = quick(tmp_path)
    page = report.page([run])
    told = re.search(r'<tr><th scope="row">translate</th><td>2</td>(.+?)</tr>', page, re.DOTALL)
    assert told is not None
    cells = [re.sub(r"<.+?>", "", cell) for cell in re.findall(r"<td>(.+?)</td>", told[1])]
    assert cells == ["81.4 → 100.0", "2.0 → 12.5", "20real 21", "41.0 → 38.0real 45.0", "7real 8", "1.0 → 6.0real 2.0"]
    assert page.count("; learned in 3 reviews<") == 1
    console = Console(record=True, width=120, file=StringIO())
    report.tables(results.collect(run), console)
    line = r"rehearsal +90\.7 +7\.2 +20 \(21\) +39\.5 \(45\.0\) +7 \(8\) +3\.5 \(2\.0\)"
    assert re.search(line, console.export_text())


def test_runs_from_before_these_figures_have_a_page_without_them(tmp_path: Path) -> None:
    run = write_run(tmp_path / "old", {"rehearsal": "sequential"}, TASKS)
    counts = {"wanted": 8, "kept": 8, "drawn": 9, "rejected": {"label": 1}}
    write_arm(run, "rehearsal", REHEARSAL, rehearsed=[{"before": "edit", "task": "translate", **counts}])
    assert "longest run" not in report.page([run]) and "8 kept of 8 wanted" in report.page([run])


def test_an_unfinished_run_says_what_is_missing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "quick", ARMS, TASKS)
    assert "nothing to compare" in report.page([run])
    write_arm(run, "finetune", FINETUNE[:3])
    write_arm(run, "multitask", MULTITASK, teach="multitask")
    page = report.page([run])
    assert "finetune, seed0: 3 of 4 rows of R" in page and "rehearsal: 1 run not begun" in page
    assert "multitask</b> was taught everything at once" in page


def test_write_puts_page_results_and_plots_into_the_run(tmp_path: Path) -> None:
    run = quick(tmp_path)
    assert report.write([run]) == run / "report.html"
    assert (run / "results.json").is_file()
    plots_written = {path.stem for path in (run / "plots").iterdir()}
    assert plots_written == {
        "kept",
        "seen-so-far",
        "costs",
        "tasks",
        "R-finetune",
        "R-rehearsal",
        "R-multitask",
    }
    for path in (run / "plots").iterdir():
        assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    out = tmp_path / "elsewhere" / "both.html"
    assert report.write([run, quick(tmp_path, "two")], out) == out
    assert (out.parent / "plots" / "R-finetune-two.svg").is_file()


def test_a_heat_map_marks_taught_cells_and_tells_each_interval(tmp_path: Path) -> None:
    document = results.collect(quick(tmp_path))
    (view,) = views_of(document, rows_of(document, colours([document])))
    picture = plots.heat_map(view.matrices[0])
    assert picture.body.count('class="heat"') == 6  # the lower left triangle of three tasks
    assert picture.body.count('class="before"') == 6
    assert picture.body.count('class="frame"') == 3
    words = "translate, after edit: 40.0 %, 95 % interval 37.0 to 43.0 (bootstrap over test rows)"
    assert f"<title>{words}</title>" in picture.body
    assert ">−70.0<" in picture.body  # what became of translate since it was taught


def test_columns_of_a_view_stand_in_the_order_taught(tmp_path: Path) -> None:
    run = write_run(tmp_path / "quick", {"finetune": "sequential", "multitask": "multitask"}, TASKS)
    stored = [[row[1], row[2], row[0]] for row in FINETUNE]  # FINETUNE was taught answer, translate, edit
    write_arm(run, "finetune", stored, order=["answer", "translate", "edit"])
    write_arm(run, "multitask", [[0.0, 0.0, 0.0], [0.1, 0.2, 0.3]], teach="multitask")
    document = results.collect(run)
    (view,) = views_of(document, rows_of(document, colours([document])))
    assert view.order == ["answer", "translate", "edit"]
    assert view.matrices[0].R == FINETUNE and view.matrices[0].after == [
        "base",
        "answer",
        "translate",
        "edit",
    ]
    assert view.matrices[1].R[-1] == [0.3, 0.1, 0.2]


def test_each_order_and_setting_has_a_view_of_its_own_and_seeds_share_one(tmp_path: Path) -> None:
    key = "arms.rehearsal.rehearsal.ratio"
    run = write_run(tmp_path / "swept", {"rehearsal": "sequential"}, ["a", "b"], sweep={key: [0.1, 0.2]})
    for ratio in (0.1, 0.2):
        for seed, order in ((0, ["a", "b"]), (1, ["a", "b"]), (2, ["b", "a"])):
            score = ratio + 0.1 * seed
            R = [[0.0, 0.0], [score, score], [score, score]]
            name = f"seed{seed}-{ratio}"
            write_arm(run, "rehearsal", R, tasks=["a", "b"], seed=seed, order=order, settings={key: ratio}, run=name)
    document = results.collect(run)
    rows = rows_of(document, colours([document]))
    assert [row.label for row in rows] == ["rehearsal · ratio=0.1", "rehearsal · ratio=0.2"]
    views = views_of(document, rows)
    assert [view.title for view in views] == [
        "ratio=0.1: a → b", "ratio=0.1: b → a", "ratio=0.2: a → b", "ratio=0.2: b → a"
    ]  # fmt: skip
    (matrix,) = views[0].matrices
    assert matrix.runs == 2 and matrix.ci is None
    assert matrix.R[1] == pytest.approx([0.15, 0.15])
    assert matrix.std[1] == pytest.approx([0.1 / 2**0.5] * 2)
    assert "over 2 runs" in plots.heat_map(matrix).body
    assert report.page([run]).count("The other orders and settings of this run") == 1


def row(
    acc: float,
    forgetting: float | None,
    gap: float | None = None,
    teach: str = "sequential",
    *,
    learned: float | None = None,
    base: float | None = None,
) -> Row:
    mean = {**dict.fromkeys(FORMULAE), "acc": acc, "forgetting": forgetting, "gap_to_multitask": gap}
    mean["learning_acc"] = learned
    return Row("arm", teach, "arm", 1, mean, dict.fromkeys(FORMULAE), {}, [acc], 0, 0, base=base)


def test_the_headline_begins_with_what_matters() -> None:
    assert headline(row(0.2, 0.71, 0.6)) == "forgot 71 points and ends at 20.0 %, 25 % of what multitask reaches."
    kept = "kept 97.0 % of what multitask reaches: 77.6 %, with 1.0 point forgotten."
    assert headline(row(0.776, 0.01, 0.024)) == kept
    assert headline(row(0.8, -0.02)) == "ends at 80.0 %; earlier tasks rose by 2.0 points on average."
    assert headline(row(0.8, None, 0.0)) == "reached 100.0 % of what multitask reaches: 80.0 %."
    assert headline(row(0.0, 0.3, 0.0)) == "forgot 30 points and ends at 0.0 %."
    assert "the bound" in headline(row(0.8, None, 0.0, "multitask"))


def test_the_headline_says_no_more_than_its_numbers_bear() -> None:
    near = "kept 99.6 % of what multitask reaches: 96.0 %, with 0.3 points forgotten."
    assert headline(row(0.960, 0.003, 0.004)) == near
    above = "kept 100.4 % of what multitask reaches: 96.8 %; earlier tasks rose by 0.3 points on average."
    assert headline(row(0.968, -0.003, -0.004)) == above
    # A mean of zero may hide one task that fell and one that rose.
    even = "kept 50 % of what multitask reaches: 40.0 %, with 0.0 points forgotten on average."
    assert headline(row(0.4, 0.0, 0.4)) == even


@pytest.mark.parametrize(("score", "forgot"), [(0.0, 0.0), (0.5, 0.0), (0.25, -0.1)])
def test_where_nothing_was_learned_nothing_could_be_forgotten(score: float, forgot: float) -> None:
    shown = f"{100 * score:.1f}"
    said = f"learned nothing: {shown} % right after each task was taught, {shown} % before; it ends at {shown} %."
    assert headline(row(score, forgot, 0.1, learned=score, base=score)) == said
    assert not headline(row(score, forgot, 0.1, learned=score + 0.1, base=score)).startswith("learned nothing")


def test_the_untaught_scores_come_from_row_0_of_every_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "flat", {"finetune": "sequential"}, ["a", "b"], seeds=(0, 1))
    for seed in (0, 1):
        write_arm(run, "finetune", [[0.2, 0.4], [0.2, 0.4], [0.2, 0.4]], tasks=["a", "b"], seed=seed)
    document = results.collect(run)
    (flat,) = rows_of(document, colours([document]))
    assert flat.base == pytest.approx(0.3) and headline(flat).startswith("learned nothing: 30.0 % right after")


def test_last_words_tell_what_was_learned_and_forgotten_and_what_to_type_next(tmp_path: Path) -> None:
    run = quick(tmp_path)
    console = Console(record=True, width=60, file=StringIO())
    report.last_words(results.collect(run), Path("runs/quick"), console)
    text = console.export_text()
    assert "learned    translate 0.0 → 90.0, edit 10.0 → 80.0, answer 0.0 → 70.0" in text
    assert "forgotten  translate −70.0, edit −50.0" in text
    assert "runs/quick/report.html" in text
    assert "continual chat runs/quick" in text and "continual report runs/quick" in text


def test_tables_show_the_arms_and_a_bold_diagonal(tmp_path: Path) -> None:
    console = Console(record=True, width=120, color_system="truecolor", file=StringIO())
    report.tables(results.collect(quick(tmp_path, seeds=(0, 1))), console)
    text = console.export_text(clear=False)
    assert re.search(r"finetune × 2 +40\.0 ± 0\.0 +60\.0 ± 0\.0 +−60\.0 ± 0\.0", text)
    assert re.search(r"edit +40\.0 +80\.0 +10\.0", text)
    styled = console.export_text(styles=True)
    assert "\x1b[1m80.0\x1b[0m" in styled and "\x1b[1m40.0" not in styled


def test_what_was_learned_of_an_arm_without_steps_is_its_end(tmp_path: Path) -> None:
    document = results.collect(quick(tmp_path))
    (view,) = views_of(document, rows_of(document, colours([document])))
    assert learned(view.matrices[2]) == "translate 0.0 → 90.0, edit 10.0 → 90.0, answer 0.0 → 60.0"
    assert forgotten(view.matrices[2]) == "nothing"


def test_arms_without_steps_are_level_dashed_lines_over_the_same_tasks(tmp_path: Path) -> None:
    document = results.collect(quick(tmp_path))
    rows = rows_of(document, colours([document]))
    assert rows[2].seen == pytest.approx([0.9, 0.9, 0.8])
    assert rows[0].seen == pytest.approx([0.9, 0.6, 0.4])
    body = curves.seen_so_far(rows, TASKS).body
    assert body.count('stroke-dasharray="none"') == 2 and body.count('stroke-dasharray="8 4"') == 1


def test_numbers_are_written_for_people() -> None:
    assert numbers.percent(0.931) == "93.1" and numbers.percent(-0.0001) == "0.0" and numbers.percent(None) == "–"
    assert numbers.points(0.016) == "+1.6" and numbers.points(-0.05) == "−5.0" and numbers.points(-0.0001) == "0.0"
    assert numbers.figure("forgetting", 0.02, 0.001) == "2.0 ± 0.1" and numbers.figure("bwt", 0.02) == "+2.0"
    assert numbers.amount(950) == "950" and numbers.amount(1_900_000) == "1.9 M"
    assert numbers.size(900_000_000) == "900 MB" and numbers.size(1_500) == "1.5 kB" and numbers.size(0) == "0 B"
    assert numbers.duration(185) == "3 min 05 s" and numbers.duration(7_800) == "2 h 10 min"


def test_chinese_counts_double_when_text_is_cut_to_a_width() -> None:
    assert svg.width_of("早安") > 1.5 * svg.width_of("ab")
    assert svg.shorten("translate", 200) == "translate"
    cut = svg.shorten("翻译成中文", 40)
    assert cut.endswith("…") and svg.width_of(cut) <= 40


def curve(run: Path, arm: str, losses: dict[str, list[float | None]]) -> None:
    points = [
        losscurve.LossPoint(task, step, 10 * step, loss, 1e-3)
        for task, values in losses.items()
        for step, loss in enumerate(values, 1)
    ]
    losscurve.append_points(run / "arms" / arm / "seed0" / losscurve.FILE, points, sync=False)


def test_the_loss_of_each_arm_is_drawn_task_by_task(tmp_path: Path) -> None:
    run = quick(tmp_path)
    assert "The loss</h2>" not in report.page([run])  # an older run kept none
    curve(run, "finetune", {"translate": [4.0, 0.5, 0.02], EVIL: [3.0, None, 0.0]})
    curve(run, "multitask", {"all tasks": [None]})  # never a number: nothing to draw
    page = report.page([run])
    section = page[page.index("The loss</h2>") : page.index("What it cost")]
    assert section.count("<figure>") == 1 and "translate, 3 steps: loss 4 → 0.02" in section
    assert EVIL not in page and "6 steps" in section
    report.write([run])
    ElementTree.parse(run / "plots/loss-finetune.svg")


def test_a_long_loss_curve_is_thinned_to_means_on_a_scale_of_tens() -> None:
    points = [losscurve.LossPoint("a", step, step, 10.0 if step % 2 else 0.1, 0.1) for step in range(1, 10_001)]
    picture = losses.loss_curve(row(0.5, 0.0), points)
    assert picture is not None
    (line,) = re.findall(r'points="([^"]+)"', picture.body)
    heights = {float(dot.split(",")[1]) for dot in line.split()}
    assert 100 < len(line.split()) < 250 and len(heights) == 1  # the mean of 10 and 0.1, everywhere
    for label in ("0.1", "1", "10"):
        assert f">{label}</text>" in picture.body
