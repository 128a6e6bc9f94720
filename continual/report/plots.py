"""What was kept at the end, and heat maps of R."""

from collections.abc import Sequence

from continual.forgetting import Cell
from continual.report import svg
from continual.report.numbers import percent, points
from continual.report.svg import Picture
from continual.report.views import ArmMatrix, Row

COLOURS = 8
"""How many colours colours.css has for arms."""


def kept(rows: Sequence[Row], width: float = 560) -> Picture:
    """A bar per arm, `width` for 100 %: ACC, and behind it what had been learned and was lost."""
    title = "What each arm keeps at the end (ACC, filled) of what it had learned (learning ACC, outlined), in %"
    left = min(max(0.4 * width, 104.0), max(svg.width_of(row.label) for row in rows) + 14)
    step = 34.0
    bottom = 8 + step * len(rows)
    body = [_ticks(left, 8, width, bottom - 8)]
    for place, row in enumerate(rows):
        y, acc, learned = 8 + step * place + 6, row.mean["acc"], row.mean["learning_acc"]
        colour = row.colour % COLOURS
        bars = [svg.text(left - 10, y + 11, svg.shorten(row.label, left - 10), anchor="end")]
        if learned is not None and acc is not None and learned > acc:
            lost = svg.rect(left + width * acc, y, width * (learned - acc), 22, f"fill{colour} stroke{colour} lost")
            bars.append(lost)
        end = left + width * max(acc or 0, learned or 0)
        if acc is not None:
            bars.append(svg.rect(left, y, width * acc, 22, f"fill{colour}"))
            end = _error_bar(bars, left, width, y + 11, acc, row.std["acc"], end)
        bars.append(svg.text(end + 8, y + 11, percent(acc), kind="strong number"))
        words = f"{row.label}: ACC {percent(acc)} %, learning ACC {percent(learned)} %"
        body.append(svg.titled("".join(bars), words))
    return Picture(left + width + 60, bottom + 24, "".join(body), title)


def _error_bar(bars: list[str], left: float, width: float, y: float, value: float, std: Cell, end: float) -> float:
    """Adds mean ± std as a whisker, and returns where the drawing ends."""
    if std is None:
        return end
    low, high = left + width * max(value - std, 0), left + width * min(value + std, 1)
    bars += [svg.line(low, y, high, y, "whisker")]
    bars += [svg.line(x, y - 4, x, y + 4, "whisker") for x in (low, high)]
    return max(end, high)


def _ticks(left: float, top: float, width: float, height: float) -> str:
    """Upright rules at 0, 25, … 100 %, numbered below."""
    marks = []
    for score in (0, 25, 50, 75, 100):
        x = left + width * score / 100
        marks.append(svg.line(x, top, x, top + height, "rule"))
        marks.append(svg.text(x, top + height + 12, str(score), anchor="middle", kind="soft number", size=11))
    return "".join(marks)


def heat_map(matrix: ArmMatrix) -> Picture:
    """R of one arm: base on top, taught cells in colour, cells of tasks not yet taught in grey."""
    many = len(matrix.order) > 9
    widest = max(svg.width_of(task) for task in matrix.order)
    cell_width, cell_height = (46.0, 26.0) if many else (min(max(widest + 12, 60.0), 92.0), 32.0)
    names = [_row_name(matrix, place) for place in range(len(matrix.R))]
    left = min(150.0, max(svg.width_of(name) for name in names) + 14)
    top = 24.0 if not many else 76.0
    body = [
        _column_head(task, left + cell_width * (column + 0.5), top, cell_width, many)
        for column, task in enumerate(matrix.order)
    ]
    y = top
    for place, row in enumerate(matrix.R):
        body.append(svg.text(left - 8, y + cell_height / 2, svg.shorten(names[place], left - 10), anchor="end"))
        for column in range(len(row)):
            body.append(_cell(matrix, place, column, left + column * cell_width, y, cell_width, cell_height))
        y += cell_height + (8 if place == 0 else 0)
    if matrix.changes is not None and len(matrix.order) > 1:
        y += 6
        body.append(svg.text(left - 8, y + 10, "since taught", anchor="end", kind="soft", size=11))
        for column, change in enumerate(matrix.changes):
            if matrix.spans_taught[column][1] == len(matrix.R) - 1:
                continue  # it ended with the last step
            kind = "soft" if change is None else "bad" if change <= -0.005 else "good" if change >= 0.005 else "soft"
            x = left + (column + 0.5) * cell_width
            body.append(svg.text(x, y + 10, points(change), anchor="middle", kind=f"{kind} number strong", size=11))
        y += 20
    title = f"R of {matrix.row.label}: the score in % on each task (columns) after each step (rows)"
    return Picture(left + cell_width * len(matrix.order) + 4, y + 4, "".join(body), title)


def _row_name(matrix: ArmMatrix, place: int) -> str:
    name = matrix.after[place]
    return f"+ {name}" if matrix.sequential and place else name


def _column_head(task: str, x: float, top: float, width: float, slanted: bool) -> str:
    if slanted:
        words = svg.text(0, 0, svg.shorten(task, 84), size=11)
        return svg.titled(f'<g transform="translate({x - 4:.1f} {top - 8:.1f}) rotate(-50)">{words}</g>', task)
    return svg.titled(svg.text(x, top - 12, svg.shorten(task, width - 4), anchor="middle"), task)


def _cell(matrix: ArmMatrix, place: int, column: int, x: float, y: float, width: float, height: float) -> str:
    score = matrix.R[place][column]
    first, last = matrix.spans_taught[column]
    taught = place >= first
    shapes = [svg.rect(x + 1, y + 1, width - 2, height - 2, "cell", rx=3)]
    if score is not None:
        opacity = f"{0.14 + 0.86 * score if taught else 0.03 + 0.4 * score:.2f}"
        kind = "heat" if taught else "before"
        shapes.append(svg.rect(x + 1, y + 1, width - 2, height - 2, kind, rx=3, fill_opacity=opacity))
    just_taught = matrix.sequential and place == last
    if just_taught:
        shapes.append(svg.rect(x + 2, y + 2, width - 4, height - 4, "frame", rx=2))
    kind = "strong number" if just_taught else "number" if taught else "soft number"
    shapes.append(svg.text(x + width / 2, y + height / 2, percent(score), anchor="middle", kind=kind))
    return svg.titled("".join(shapes), _cell_words(matrix, place, column, score))


def _cell_words(matrix: ArmMatrix, place: int, column: int, score: Cell) -> str:
    after = "the untaught base" if place == 0 else f"after {matrix.after[place]}"
    if not matrix.sequential and place:
        after = f"{matrix.row.arm}, at the end"
    words = f"{matrix.order[column]}, {after}: {percent(score)} %"
    std = matrix.std[place][column]
    interval = matrix.ci[place][column] if matrix.ci is not None else None
    if std is not None:
        words += f" ± {100 * std:.1f} over {matrix.runs} runs"
    elif interval is not None:
        words += f", 95 % interval {percent(interval[0])} to {percent(interval[1])} (bootstrap over test rows)"
    return words
