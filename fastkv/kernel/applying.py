"""What a server does with the kernel profile when it starts: it applies what it may, and says so.

Enters: the settings. Leaves: log lines, one for each change and one that sums up, and the way back. Nothing
is raised.
"""

from __future__ import annotations

import logging
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from fastkv.errors import TuningError
from fastkv.kernel import profile
from fastkv.kernel.plan import Plan, Verdict, judge
from fastkv.kernel.tuning import Change, Outcome, Tuner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastkv.kernel.sysctl import Tree
    from fastkv.settings import Settings

_log = logging.getLogger("fastkv")


def apply_profile(settings: Settings, tree: Tree) -> Callable[[], None]:
    """Apply the profile where that is permitted, and log what was done.

    Args:
        settings: profile, state_dir and port count.
        tree: the machine.

    Returns:
        Puts back what was changed here, and logs that.
    """
    assert settings.state_dir is not None
    plan = judge(tree, profile.load(settings.profile, settings.port), limits=())
    tuner = Tuner(tree, settings.state_dir)
    try:
        changes = tuner.apply(plan)
    except TuningError as error:
        _log.warning("The kernel's settings are left as they are: %s", error)
        return lambda: None
    risks = {row.name: row.why for row in plan.rows if row.verdict is Verdict.RISKY and row.writes}
    for change in changes:
        if change.outcome is not Outcome.CHANGED:
            _log.warning("Kernel setting %s", change)
        elif change.name in risks:
            _log.warning("Kernel setting %s (risky: %s)", change, risks[change.name])
        else:
            _log.info("Kernel setting %s", change)
    _log.info("%s", _summary(plan, changes))
    return partial(_put_back, tuner, changes)


def _put_back(tuner: Tuner, changes: Sequence[Change]) -> None:
    """Undo changes, each with a line in the log."""
    try:
        undone = tuner.undo(changes)
    except TuningError as error:
        _log.warning("The kernel's settings stay changed: %s fastkv tune-kernel --revert undoes it.", error)
        return
    for change in undone:
        level = logging.INFO if change.outcome is Outcome.RESTORED else logging.WARNING
        _log.log(level, "The start failed. Kernel setting %s", change)


def _summary(plan: Plan, changes: list[Change]) -> str:
    """Say in one line what was done."""
    count = Counter(row.verdict for row in plan.rows)
    changed = sum(change.outcome is Outcome.CHANGED for change in changes)
    parts = [f"{changed} changed", f"{count[Verdict.BETTER]} as good or better before"]
    if len(changes) > changed:
        parts.append(f"{len(changes) - changed} failed")
    if count[Verdict.NOT_PERMITTED]:
        parts.append(f"{count[Verdict.NOT_PERMITTED]} not permitted")
    if missing := count[Verdict.ABSENT] + count[Verdict.OBSOLETE]:
        parts.append(f"{missing} not there")
    undo = " fastkv tune-kernel --revert puts them back." if changed else ""
    return f"Kernel profile {plan.profile.name}: {', '.join(parts)}.{undo}"
