"""Markdown that tables are made of: cells of figures, and where the figures come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Result = dict[str, Any]
"""What a measurement has written, as ``report.save`` has it."""


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown.

    Args:
        head: titles of the columns.
        rows: their cells.

    Returns:
        Its lines.
    """
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


def about(result: Result) -> str:
    """Where the figures come from, in a line."""
    versions = [f"{name} {version}" for name, version in result["versions"].items()]
    versions += [f"{name} {version}" for name, version in result.get("servers", {}).items()]
    where = f"{result['machine']}; {result['python']}; commit {result['commit']}"
    return f"\n<sub>{where}; {', '.join(versions)}.</sub>\n"


def spread(figures: dict[str, float], digits: int = 0) -> str:
    """A median with its quartiles.

    Args:
        figures: as ``report.summary`` makes them.
        digits: how many to show behind the point.
    """
    median, lower, upper = (f"{figures[name]:,.{digits}f}" for name in ("median", "lower", "upper"))
    return f"{median} ({lower} to {upper})"


def in_order(values: Iterable[str]) -> list[str]:
    """Each value once, in the order of their first appearance."""
    return list(dict.fromkeys(values))
