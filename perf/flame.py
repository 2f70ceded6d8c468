"""The flame graphs that py-spy writes: read back, for a table of what is in them, and made fit to look at.

What comes in is the text of an SVG; the frames in it have their samples in attributes of inferno, the program
that draws for py-spy: ``fg:x`` is the first sample of a frame, ``fg:w`` their number. Depth grows downwards.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from html import escape, unescape
from itertools import takewhile
from typing import Final, NamedTuple

_GROUP: Final = re.compile(
    r"<g><title>(?P<title>[^<]*) \([\d,]+ samples?, [\d.]+%\)</title>"
    r'<rect x="[\d.]+%" y="(?P<y>\d+)(?:\.00)?"[^>]* fg:x="(?P<x>\d+)" fg:w="(?P<w>\d+)"/>'
    r'<text x="[\d.]+%" y="[\d.]+">[^<]*</text></g>'
)
_Y: Final = re.compile(r'(<(?:rect|text) x="[^"]*" y=")([\d.]+)"')
_HEIGHT: Final = re.compile(r'( height="|viewBox="0 0 \d+ )(\d+)"')
_MATCHED: Final = re.compile(r'(<text id="matched"[^>]* y=")([\d.]+)"')
_TITLE: Final = re.compile(r'(<text id="title"[^>]*>)[^<]*')
_LINE_NUMBER: Final = re.compile(r":\d+\)$")
_NO_SYMBOL: Final = re.compile(r"^0x[0-9a-f]+ ")
_ROW: Final = 16
_NEARLY_ALL: Final = 0.9


class Frame(NamedTuple):
    """A frame.

    Attributes:
        name: of the function, with its file and line.
        y: how deep it is, in pixels.
        first: its first sample.
        samples: how many it is in.
    """

    name: str
    y: int
    first: int
    samples: int


def frames(picture: str) -> list[Frame]:
    """The frames of a flame graph, without the one that stands for all of them.

    Args:
        picture: its text.

    Returns:
        In no particular order; none if there is no frame.
    """
    found = (
        Frame(unescape(group["title"]), int(group["y"]), int(group["x"]), int(group["w"]))
        for group in _GROUP.finditer(picture)
    )
    return [frame for frame in found if frame.name != "all"]


def self_samples(found: list[Frame]) -> Counter[str]:
    """How many samples were in a function itself and in nothing that it called.

    Args:
        found: the frames of a flame graph.

    Returns:
        By function and file: lines of one function are one, and so is what has no symbols in one file.
    """
    rows: defaultdict[int, list[Frame]] = defaultdict(list)
    for frame in found:
        rows[frame.y].append(frame)
    counted: Counter[str] = Counter()
    for frame in found:
        called = sum(
            below.samples
            for below in rows.get(frame.y + _ROW, ())
            if frame.first <= below.first < frame.first + frame.samples
        )
        name = _NO_SYMBOL.sub("without a symbol ", _LINE_NUMBER.sub(")", frame.name))
        counted[name] += frame.samples - called
    return +counted


def trimmed(picture: str, title: str) -> str:
    """Take the rows away that say nothing: from the start of the program to where samples begin to differ.

    Args:
        picture: the text of a flame graph.
        title: what stands above it from now on.

    Returns:
        The same without the first rows in which one frame has nearly all samples, but the last of these. Not
        all, because there are samples whose stack could not be followed to its beginning.
    """
    rows: defaultdict[int, list[int]] = defaultdict(list)
    for frame in frames(picture):
        rows[frame.y].append(frame.samples)
    depths = sorted(rows)
    whole = takewhile(lambda y: max(rows[y]) >= _NEARLY_ALL * sum(rows[depths[0]]), depths)
    gone = list(whole)[:-1]

    def less(found: re.Match[str]) -> str:
        return f'{found[1]}{float(found[2]) - len(gone) * _ROW:.2f}"'

    def moved(group: re.Match[str]) -> str:
        y = int(group["y"])
        if y in gone:
            return ""
        return _Y.sub(less, group[0]) if gone and y > gone[-1] else group[0]

    head, opening, body = picture.partition('<svg id="frames"')
    head = _HEIGHT.sub(less, _MATCHED.sub(less, head))
    head = _TITLE.sub(lambda found: found[1] + escape(title), head)
    head = head.replace("truncate_text_right = false", "truncate_text_right = true")  # functions, not files
    return head + opening + _GROUP.sub(moved, body)
