"""What ``fastkv tune-kernel`` says: a table for a person, JSON for a program.

Enters: a plan, what was changed, what could be set elsewhere. Leaves: lines on a console, or a dictionary
whose keys ``docs/tuning.md`` describes.
"""

import io
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fastkv.kernel.equivalents import Equivalents
from fastkv.kernel.plan import Plan, Row, Verdict
from fastkv.kernel.tuning import Change, Outcome

JSON_VERSION: Final = 1

_STYLES: Final = {
    Verdict.APPLY: "yellow",
    Verdict.BETTER: "green",
    Verdict.OBSOLETE: "dim",
    Verdict.RISKY: "red",
    Verdict.NOT_PERMITTED: "magenta",
    Verdict.ABSENT: "dim",
}
_TABLE_WIDTH: Final = 160
_PIPE_WIDTH: Final = 400
_VALUE_WIDTH: Final = 28


@dataclass(slots=True)
class Report:
    """The outcome of one run.

    Attributes:
        action: ``show``, ``check``, ``apply``, ``persist`` or ``revert``.
        plan: the machine as it is after the run.
        changes: what was touched.
        persisted: the file that was written or removed.
        notes: sentences for a person.
        ok: whether the exit code is 0.
    """

    action: str
    plan: Plan
    changes: Sequence[Change] = ()
    persisted: Path | None = None
    notes: list[str] = field(default_factory=list)
    ok: bool = True

    def as_json(self) -> dict[str, Any]:
        """Return it for a program.

        Returns:
            What ``json.dumps`` takes.
        """
        return {
            "version": JSON_VERSION,
            "action": self.action,
            "profile": self.plan.profile.name,
            "ok": self.ok,
            "in_place": self.plan.in_place,
            "settings": [_row(row) for row in self.plan.rows],
            "limits": [_row(row) for row in self.plan.limits],
            "changes": [{**asdict(change), "outcome": change.outcome.value} for change in self.changes],
            "persisted": None if self.persisted is None else str(self.persisted),
            "equivalents": asdict(Equivalents.of(self.plan)),
            "notes": self.notes,
        }

    def show(self) -> None:
        """Write it for a person, on stdout."""
        # What was changed has to be told on every terminal, also on one that has no arrows.
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        # A pipe has no width: every setting is a line there.
        console = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
        if self.action in ("show", "check"):
            _show_rows(console, self.plan)
        for change in self.changes:
            good = change.outcome in (Outcome.CHANGED, Outcome.RESTORED)
            console.print(Text(str(change), style="" if good else "red"), soft_wrap=True)
        if self.action in ("show", "apply"):
            self._show_equivalents(console)
        for note in self.notes:
            console.print(Text(note), soft_wrap=True)

    def _show_equivalents(self, console: Console) -> None:
        """Where to set what cannot be set from here."""
        stuck = (Verdict.NOT_PERMITTED, Verdict.ABSENT)
        if not any(row.verdict in stuck for row in (*self.plan.rows, *self.plan.limits)):
            return
        others = Equivalents.of(self.plan)
        if others.docker:
            _block(
                console,
                "A container's own, given to docker run (not together with --network=host):",
                others.docker,
            )
            _block(console, "The same in a compose file:", others.compose)
        if others.pod:
            _block(console, "The same in a pod:", others.pod)
        if others.pod_safe:
            safe = ", ".join(f"{name} ({since})" for name, since in others.pod_safe.items())
            console.print(f"A pod may always set, since that Kubernetes: {safe}.", soft_wrap=True)
        if others.pod_unsafe:
            names = ", ".join(others.pod_unsafe)
            console.print(
                f"The kubelet allows these only with --allowed-unsafe-sysctls: {names}.", soft_wrap=True
            )
        if others.host:
            _block(console, "Only the host can set, as root:", "\n".join(others.host))


def _block(console: Console, head: str, text: str) -> None:
    console.print()
    console.print(Text(head, style="bold"), soft_wrap=True)
    # A line to copy must not be broken by the console.
    for line in text.splitlines():
        console.print(Text(f"  {line}"), soft_wrap=True)


def _row(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "scope": row.scope.value,
        "current": row.current,
        "wanted": row.wanted,
        "verdict": row.verdict.value,
        "writes": row.writes,
        "why": row.why,
    }


def _show_rows(console: Console, plan: Plan) -> None:
    """Write a table; where the terminal is too narrow for it, three lines for each setting."""
    rows = (*plan.rows, *plan.limits)
    if console.is_terminal and console.width < _TABLE_WIDTH:
        for row in rows:
            console.print(Text.assemble((row.name, "bold"), "  ", _verdict(row), f"  {row.scope}"))
            wanted = "" if row.wanted in (None, row.current) else f" → {_shown(row.wanted)}"
            console.print(Text(f"  {_shown(row.current)}{wanted}"))
            console.print(Padding(Text(row.why, style="dim"), (0, 0, 0, 2)))
        return
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for head in ("setting", "current", "wanted", "verdict", "scope"):
        table.add_column(head, no_wrap=True)
    table.add_column("why")
    for row in rows:
        cells = (row.name, _shown(row.current), _shown(row.wanted), _verdict(row), row.scope)
        table.add_row(*cells, Text(row.why, style="dim"))
    console.print(table)


def _verdict(row: Row) -> Text:
    return Text(row.verdict, style=_STYLES[row.verdict])


def _shown(value: str | None) -> str:
    if value is None:
        return "-"
    # A list of ports may be longer than any terminal is wide; JSON has all of it.
    return (value if len(value) <= _VALUE_WIDTH else f"{value[: _VALUE_WIDTH - 1]}…") or "empty"
