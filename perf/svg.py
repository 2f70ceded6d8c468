"""A picture as SVG, for a README: text and shapes go in, one text comes out, the same for the same input.

It brings its own background and follows the reader's light or dark mode; it has a title and a description for
who does not see it; and nothing is told by colour alone: parts of bars differ by hatching, dots by shape.

No library: what matplotlib, pygal and Altair write does not follow the reader's dark mode, and three kinds of
charts need little more than this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH: Final = 820
"""As wide as a README is shown, so that 13 px are 13 px."""
MARGIN: Final = 20
LINE: Final = 24
"""From one line of text to the next."""
LETTER: Final = 8
"""What a letter takes on average: 0.6 of 13 px, in the widest fonts (DejaVu Sans, Verdana)."""
_STYLE: Final = """
svg{--ink:#1f2328;--quiet:#59636e;--back:#fff;--grid:#d1d9e0;--own:#0969da;--other:#6e7781}
@media(prefers-color-scheme:dark){svg{--ink:#f0f6fc;--quiet:#9198a1;--back:#0d1117;--grid:#3d444d;--own:#4493f8;--other:#8b949e}}
text{font:13px -apple-system,"Segoe UI","Noto Sans",Helvetica,Arial,sans-serif;fill:var(--ink);
paint-order:stroke;stroke:var(--back);stroke-width:4;stroke-linejoin:round}
.title{font-size:16px;font-weight:600}
.strong{font-weight:600}
.quiet{fill:var(--quiet)}
.back,.hollow{fill:var(--back)}
.grid{stroke:var(--grid)}
.tear{stroke:var(--back);stroke-width:5}
.hatch{stroke:var(--back);stroke-width:2.5}
.own{color:var(--own)}
.other{color:var(--other)}
.bar,.dot{fill:currentColor}
.dot,.hollow{stroke:currentColor;stroke-width:2}
.line{fill:none;stroke:currentColor;stroke-width:2}
"""
_HATCH: Final = (
    '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse"'
    ' patternTransform="rotate(45)"><path class="hatch" d="M3 0V6"/></pattern></defs>'
)
_SHAPES: Final = (
    '<circle class="{look}" cx="{x}" cy="{y}" r="4.5"/>',
    '<path class="{look}" d="M{x} {y}m-6 0l6 -6l6 6l-6 6z"/>',
    '<path class="{look}" d="M{x} {y}m-4.5 -4.5h9v9h-9z"/>',
    '<path class="{look}" d="M{x} {y}m-5.5 4.5l5.5 -9.5l5.5 9.5z"/>',
)


class Picture:
    """A picture that grows downwards.

    Args:
        title: stands at its top, and is its name for who does not see it.
        description: what it shows, in words and figures.

    Attributes:
        y: the middle of the line that is next.
    """

    def __init__(self, title: str, description: str) -> None:
        self._said = f"<title>{escape(title)}</title><desc>{escape(description)}</desc>"
        self._shapes: list[str] = []
        self.y = 30.0
        self.text(MARGIN, title, "title")
        self.y += 1.25 * LINE

    def text(
        self, x: float, words: str, look: str = "", anchor: str = "start", y: float | None = None
    ) -> None:
        """Write words.

        Args:
            x: where they start, have their middle or end.
            words: the text.
            look: classes of its style.
            anchor: "start", "middle" or "end".
            y: their middle; the current line if it is not given.
        """
        middle = self.y if y is None else y
        self._shapes.append(
            f'<text x="{_number(x)}" y="{_number(middle + 4.5)}" text-anchor="{anchor}"'
            f"{_class(look)}>{escape(words)}</text>"
        )

    def line(self, places: Sequence[tuple[float, float]], look: str) -> None:
        """Draw a line through places."""
        path = "L".join(f"{_number(x)} {_number(y)}" for x, y in places)
        self._shapes.append(f'<path d="M{path}"{_class(look)}/>')

    def bar(self, x: float, width: float, look: str, *, hatched: bool) -> None:
        """Draw a bar on the current line."""
        place = f'x="{_number(x)}" y="{_number(self.y - 8)}" width="{_number(width)}" height="16"'
        self._shapes.append(f"<rect {place}{_class(f'{look} bar')}/>")
        if hatched:
            self._shapes.append(f'<rect {place} fill="url(#hatch)"/>')

    def dot(self, x: float, y: float, look: str, kind: int) -> None:
        """Draw a dot of a kind: of eight shapes, four filled and four hollow, then the same again."""
        shape = _SHAPES[kind % len(_SHAPES)]
        filled = "hollow" if kind // len(_SHAPES) % 2 else "dot"
        self._shapes.append(shape.format(look=f"{look} {filled}", x=_number(x), y=_number(y)))

    def svg(self) -> str:
        """The picture down to the current line."""
        height = _number(self.y)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}"'
            f' height="{height}" role="img">\n{self._said}\n<style>{_STYLE}</style>\n{_HATCH}\n'
            f'<rect class="back" width="100%" height="100%" rx="6"/>\n'
            + "\n".join(self._shapes)
            + "\n</svg>\n"
        )


def _number(value: float) -> str:
    """A coordinate with one digit behind the point, or none."""
    return f"{value:.1f}".removesuffix(".0")


def _class(look: str) -> str:
    return f' class="{look}"' if look else ""
