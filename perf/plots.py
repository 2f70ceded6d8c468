"""Kinds of charts: stacked bars, dots and lines on a logarithmic scale. Values go in, SVG comes out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

from perf.svg import LETTER, LINE, MARGIN, WIDTH, Picture

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LINES_HEIGHT: Final = 16 * LINE
_VALUE: Final = 9 * LETTER
"""Room for a figure behind a bar."""
_TICKS: Final = 10
_LEADER: Final = 40
"""How far the name of a line stands from its end."""


class Bar(NamedTuple):
    """A bar.

    Attributes:
        name: what stands before it.
        parts: their lengths, in the order of the legend.
        own: whether it is one of those that the chart is about.
    """

    name: str
    parts: Sequence[float]
    own: bool


class Series(NamedTuple):
    """Values that belong together: a row of dots, or a line.

    Attributes:
        name: what stands beside it.
        values: above 0, one for each name in the legend or category; None where there is none, at least one.
        own: whether it is one of those that the chart is about.
    """

    name: str
    values: Sequence[float | None]
    own: bool


def linear_ticks(highest: float) -> list[float]:
    """Ticks of an axis from 0 to a value above 0.

    Returns:
        Three to six multiples of 1, 2, 2.5 or 5 times a power of ten; the last is not below the value.
    """
    power = 10.0 ** math.floor(math.log10(highest / 5))
    step = next(times * power for times in (1, 2, 2.5, 5, 10) if times * power * 5 >= highest * (1 - 1e-9))
    return [step * at for at in range(math.ceil(highest / step - 1e-9) + 1)]


def log_ticks(lowest: float, highest: float) -> list[float]:
    """Ticks of a logarithmic axis between two values above 0.

    Returns:
        1, 2 and 5 times powers of ten, or the powers alone where that were more than ten; at least two. The
        first is not above the lowest value, the last not below the highest.
    """
    powers = range(math.floor(math.log10(lowest)) - 1, math.ceil(math.log10(highest)) + 2)
    for times in ((1, 2, 5), (1,)):
        steps = [one * 10.0**power for power in powers for one in times]
        first = max(at for at, step in enumerate(steps) if step <= lowest * (1 + 1e-9))
        last = min(at for at, step in enumerate(steps) if step >= highest * (1 - 1e-9))
        ticks = steps[first : max(last, first + 1) + 1]
        if len(ticks) <= _TICKS:
            break
    return ticks


def apart(wanted: Sequence[float], bottom: float, gap: float) -> list[float]:
    """Places for labels.

    Args:
        wanted: where each would stand by itself.
        bottom: no place is below it.
        gap: no two are nearer to each other.

    Returns:
        A place for each, near to the wanted one, in the same order from top to bottom.
    """
    order = sorted(range(len(wanted)), key=lambda at: wanted[at])
    places: dict[int, float] = {}
    above = -math.inf
    for at in order:
        above = places[at] = max(wanted[at], above + gap)
    for at in reversed(order):
        places[at] = bottom = min(places[at], bottom)
        bottom -= gap
    return [places[at] for at in range(len(wanted))]


def stacked_bars(title: str, unit: str, legend: tuple[str, str], bars: Sequence[Bar], limit: float) -> str:
    """Horizontal bars of two parts, each with its sum behind it.

    Args:
        title: of the chart.
        unit: of the axis.
        legend: the names of the two parts.
        bars: from top to bottom, at least one.
        limit: where the axis may end: a longer bar is torn there, and still says how long it is.

    Returns:
        The picture.
    """
    longest = max(sum(bar.parts) for bar in bars)
    ticks = linear_ticks(min(longest, limit))
    told = (f"{bar.name}: {_listed(legend, bar.parts)}, together {sum(bar.parts):.2f}" for bar in bars)
    picture = Picture(title, f"{unit}. {'; '.join(told)}.")
    x: float = MARGIN
    for part, name in enumerate(legend):
        picture.bar(x, 26, "other", hatched=part > 0)
        picture.text(x + 34, name)
        x += 34 + (len(name) + 3) * LETTER
    if longest > ticks[-1]:
        picture.text(WIDTH - MARGIN, "torn bars are longer than the axis", "quiet", "end")
    picture.y += 1.25 * LINE
    left = _beside(bars)
    right = WIDTH - MARGIN - _VALUE
    scale = (right - left) / ticks[-1]
    _axis(picture, [(left + tick * scale, tick) for tick in ticks], len(bars))
    for bar in bars:
        look, words = _looks(own=bar.own)
        picture.text(left - 10, bar.name, words, "end")
        x = left
        for part, length in enumerate(bar.parts):
            shown = min(length * scale, right - x)
            picture.bar(x, shown, look, hatched=part > 0)
            x += shown
        if sum(bar.parts) > ticks[-1]:
            picture.line([(right - 26, picture.y + 10), (right - 18, picture.y - 10)], "tear")
        picture.text(x + 8, f"{sum(bar.parts):,.2f}", words)
        picture.y += LINE
    picture.y += LINE
    picture.text((left + right) / 2, unit, "quiet", "middle")
    picture.y += LINE
    return picture.svg()


def dots(title: str, unit: str, legend: Sequence[str], panels: Sequence[tuple[str, Sequence[Series]]]) -> str:
    """Rows of dots on a logarithmic scale; the last value of each row stands behind it.

    Args:
        title: of the chart.
        unit: of the axis.
        legend: names of the values of each row.
        panels: headings, and the rows below each; the scale is the same for all.

    Returns:
        The picture.
    """
    rows = [row for _, some in panels for row in some]
    told = (
        f"{heading}: " + "; ".join(f"{row.name}: {_listed(legend, row.values)}" for row in some)
        for heading, some in panels
    )
    picture = Picture(title, f"{unit}. {'. '.join(told)}.")
    x: float = MARGIN + 6
    for kind, name in enumerate(legend):
        picture.dot(x, picture.y, "other", kind)
        picture.text(x + 14, name)
        x += 14 + (len(name) + 3) * LETTER
    picture.text(WIDTH - MARGIN, f"figures: {legend[-1]}", "quiet", "end")
    picture.y += 1.25 * LINE
    left = _beside(rows) + 10
    right = WIDTH - MARGIN - _VALUE
    ticks, across = _log_scale(rows, left, right)
    for heading, some in panels:
        picture.text(MARGIN, heading, "strong")
        picture.y += LINE
        _axis(picture, [(across(tick), tick) for tick in ticks], len(some))
        for row in some:
            look, words = _looks(own=row.own)
            picture.text(left - 20, row.name, words, "end")
            found = [(kind, value) for kind, value in enumerate(row.values) if value is not None]
            picture.line([(across(value), picture.y) for _, value in found], f"{look} line")
            for kind, value in found:
                picture.dot(across(value), picture.y, look, kind)
            picture.text(across(found[-1][1]) + 12, f"{found[-1][1]:,.2f}", words)
            picture.y += LINE
        picture.y += 1.5 * LINE
    picture.y -= 0.5 * LINE
    picture.text((left + right) / 2, unit, "quiet", "middle")
    picture.y += LINE
    return picture.svg()


def lines(title: str, unit: str, below: str, categories: Sequence[str], rows: Sequence[Series]) -> str:
    """A line for each row over categories, on a logarithmic scale, with its name at its end.

    Args:
        title: of the chart.
        unit: of the axis that goes up.
        below: what the categories are.
        categories: from left to right.
        rows: the lines, at least one.

    Returns:
        The picture.
    """
    told = "; ".join(f"{row.name}: {_listed(categories, row.values)}" for row in rows)
    picture = Picture(title, f"{unit}, by {below}. {told}.")
    picture.text(MARGIN, unit, "quiet")
    picture.y += LINE
    top, bottom = picture.y, picture.y + _LINES_HEIGHT
    left = MARGIN + 5 * LETTER
    right = WIDTH - MARGIN - max(len(row.name) for row in rows) * LETTER - _LEADER - 6
    ticks, up = _log_scale(rows, bottom, top)
    for tick in ticks:
        picture.line([(left, up(tick)), (right, up(tick))], "grid")
        picture.text(left - 8, f"{tick:,g}", "quiet", "end", up(tick))
    step = (right - left - 40) / max(1, len(categories) - 1)
    columns = [left + 30 + step * at for at in range(len(categories))]
    for x, category in zip(columns, categories, strict=True):
        picture.text(x, category, "quiet", "middle", bottom + LINE)
    picture.text((left + right) / 2, below, "quiet", "middle", bottom + 2 * LINE)
    places = [
        [(x, up(value)) for x, value in zip(columns, row.values, strict=True) if value is not None]
        for row in rows
    ]
    labels = apart([line[-1][1] for line in places], bottom, 0.8 * LINE)
    for kind, (row, line, label) in enumerate(zip(rows, places, labels, strict=True)):
        look, words = _looks(own=row.own)
        picture.line([line[-1], (right + _LEADER, label)], "grid")
        picture.line(line, f"{look} line")
        for x, y in line:
            picture.dot(x, y, look, kind)
        picture.text(right + _LEADER + 6, row.name, words, y=label)
    picture.y = bottom + 3 * LINE
    return picture.svg()


def _looks(*, own: bool) -> tuple[str, str]:
    """How shapes look, and how words do."""
    return ("own", "strong") if own else ("other", "")


def _listed(names: Sequence[str], values: Sequence[float | None]) -> str:
    return ", ".join(
        f"{name} {value:.2f}" for name, value in zip(names, values, strict=True) if value is not None
    )


def _beside(rows: Sequence[Bar] | Sequence[Series]) -> float:
    """Where a chart begins that has the names of its rows on its left."""
    return MARGIN + max(len(row.name) for row in rows) * LETTER + 10


def _axis(picture: Picture, ticks: Sequence[tuple[float, float]], rows: int) -> None:
    """Draw lines down so many rows, with the ticks' values below them."""
    bottom = picture.y + (rows - 0.5) * LINE
    for x, tick in ticks:
        picture.line([(x, picture.y - LINE / 2), (x, bottom + 4)], "grid")
        picture.text(x, f"{tick:,g}", "quiet", "middle", bottom + 14)


def _log_scale(
    rows: Sequence[Series], start: float, end: float
) -> tuple[list[float], Callable[[float], float]]:
    """The ticks of a logarithmic axis for all values, and where a value stands on it."""
    values = [value for row in rows for value in row.values if value is not None]
    ticks = log_ticks(min(values), max(values))
    low, high = math.log(ticks[0]), math.log(ticks[-1])
    return ticks, lambda value: start + (end - start) * (math.log(value) - low) / (high - low)
