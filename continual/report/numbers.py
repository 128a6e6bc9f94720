"""How numbers are written for people: the same in the terminal, on the page and in the plots."""

from continual.forgetting import Cell

UNKNOWN = "–"
MINUS = "−"
SIGNED = ("bwt", "fwt")
"""Figures that are written with their sign, also where it is a plus."""


def percent(score: Cell) -> str:
    """A score in [0, 1], or a difference of two, as a percentage with one digit, e.g. ``93.1``."""
    if score is None:
        return UNKNOWN
    text = f"{100 * score:.1f}".replace("-", MINUS)
    return "0.0" if text == f"{MINUS}0.0" else text


def points(difference: Cell) -> str:
    """A difference of scores in points, with its sign, e.g. ``+1.6`` or ``−5.0``."""
    if difference is None:
        return UNKNOWN
    text = f"{100 * difference:+.1f}".replace("-", MINUS)
    return "0.0" if text in ("+0.0", f"{MINUS}0.0") else text


def figure(name: str, value: Cell, std: Cell = None) -> str:
    """One figure of `continual.forgetting.FORMULAE`, with its standard deviation where there is one."""
    text = points(value) if name in SIGNED else percent(value)
    return text if std is None else f"{text} ± {100 * std:.1f}"


def from_to(before: Cell, after: Cell) -> str:
    """Two scores, e.g. ``31.0 → 28.4``."""
    return UNKNOWN if after is None else f"{percent(before)} → {percent(after)}"


def perplexity(before: Cell, after: Cell) -> str:
    """Two perplexities and how many times the second is the first, e.g. ``12.1 → 24.2 (× 2.00)``."""
    return UNKNOWN if before is None or after is None else f"{before:.4g} → {after:.4g} (× {after / before:.2f})"


def amount(value: Cell) -> str:
    """A count, short: ``950``, ``21.0 k``, ``1.9 M``."""
    if value is None:
        return UNKNOWN
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f}"


def size(value: Cell) -> str:
    """A number of bytes: ``900 MB``."""
    if value is None:
        return UNKNOWN
    for unit, bytes_ in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= bytes_:
            return f"{value / bytes_:.{1 if value < 10 * bytes_ else 0}f} {unit}"
    return f"{value:.0f} B"


def duration(seconds: Cell) -> str:
    """Seconds: ``41 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if seconds is None:
        return UNKNOWN
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


COSTS = {
    "seconds": ("time", duration),
    "train_tokens": ("tokens trained", amount),
    "generated_tokens": ("tokens generated", amount),
    "peak_bytes": ("peak memory", size),
    "real_rows_kept": ("real rows kept", amount),
    "stored_bytes": ("stored", size),
}
"""What an arm costs: the key in results.json, its title, how it is written."""
