"""Pictures as text: a few shapes, put together side by side, inline in the page or alone in a file."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

FONT = 12
"""Pixels of the usual text."""


@dataclass(frozen=True)
class Picture:
    """A drawing of a known size, in pixels; colours come from the classes in style.css."""

    width: float
    height: float
    body: str
    title: str
    """What it shows, in words, for people who cannot see it."""

    def inline(self) -> str:
        """An ``<svg>`` for the page, which carries the style."""
        return _svg(self, f'class="picture" style="--width:{self.width:g}px"')

    def file(self) -> str:
        """A whole SVG file, light or dark as its reader likes it."""
        colours = (Path(__file__).parent / "colours.css").read_text(encoding="utf-8")
        paper = '<rect width="100%" height="100%" class="paper"/>'
        attributes = f'xmlns="http://www.w3.org/2000/svg" width="{self.width:g}" height="{self.height:g}"'
        return _svg(self, attributes, f"<style>{colours}</style>{paper}") + "\n"


def _svg(picture: Picture, attributes: str, before: str = "") -> str:
    box = f'viewBox="0 0 {picture.width:g} {picture.height:g}"'
    label = f"<title>{escape(picture.title)}</title>"
    return f'<svg {attributes} {box} role="img">{label}{before}{picture.body}</svg>'


def grid(pictures: Sequence[Picture], columns: int, title: str, gap: float = 16) -> Picture:
    """Pictures in rows of `columns`, as one picture."""
    columns = max(1, min(columns, len(pictures)))
    width = max((picture.width for picture in pictures), default=0)
    rows = [pictures[start : start + columns] for start in range(0, len(pictures), columns)]
    body, top = [], gap
    for row in rows:
        for place, picture in enumerate(row):
            body.append(f'<g transform="translate({gap + place * (width + gap):g} {top:g})">{picture.body}</g>')
        top += max(picture.height for picture in row) + gap
    return Picture(gap + columns * (width + gap), top, "".join(body), title)


def text(x: float, y: float, words: str, *, anchor: str = "start", kind: str = "", size: float = FONT) -> str:
    """A line of text; `y` is its middle. `kind` is a class of style.css."""
    return (
        f'<text x="{x:.1f}" y="{y + 0.35 * size:.1f}" text-anchor="{anchor}" font-size="{size:g}"'
        f' class="{kind}">{escape(words)}</text>'
    )


def rect(x: float, y: float, width: float, height: float, kind: str, **attributes: str | float) -> str:
    """A rectangle of a class; attributes like ``fill_opacity=0.5`` are written ``fill-opacity``."""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" class="{kind}"'
        f"{_attributes(attributes)}/>"
    )


def line(x1: float, y1: float, x2: float, y2: float, kind: str, **attributes: str | float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"{_attributes(attributes)}/>'


def polyline(points: Sequence[tuple[float, float]], kind: str, **attributes: str | float) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" class="{kind}"{_attributes(attributes)}/>'


def marker(place: int, x: float, y: float, kind: str, size: float = 3.6) -> str:
    """A small shape, another one for each of six places, so that colour is never the only difference."""
    shapes = (
        f"M{-size} 0A{size} {size} 0 1 0 {size} 0A{size} {size} 0 1 0 {-size} 0Z",
        f"M{-size} {-size}H{size}V{size}H{-size}Z",
        f"M0 {-1.3 * size}L{1.2 * size} {size}H{-1.2 * size}Z",
        f"M0 {-1.4 * size}L{1.4 * size} 0L0 {1.4 * size}L{-1.4 * size} 0Z",
        f"M0 {1.3 * size}L{1.2 * size} {-size}H{-1.2 * size}Z",
        f"M{-size} {-0.5 * size}H{size}V{0.5 * size}H{-size}Z",
    )
    return f'<path transform="translate({x:.1f} {y:.1f})" d="{shapes[place % len(shapes)]}" class="{kind}"/>'


def titled(body: str, words: str) -> str:
    """Shapes that say something when the pointer rests on them."""
    return f"<g><title>{escape(words)}</title>{body}</g>"


def width_of(words: str, size: float = FONT) -> float:
    """About how wide a text is, in pixels: Chinese signs take a full square."""
    units = sum(1.0 if unicodedata.east_asian_width(sign) in "WF" else 0.58 for sign in words)
    return units * size


def shorten(words: str, width: float, size: float = FONT) -> str:
    """`words`, cut with an ellipsis where they are wider than `width`."""
    if width_of(words, size) <= width:
        return words
    while words and width_of(words + "…", size) > width:
        words = words[:-1]
    return words + "…"


def _attributes(attributes: dict[str, str | float]) -> str:
    return "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
