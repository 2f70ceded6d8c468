"""What ``fastkv tune-kernel`` does, without its command line: one action, one report.

Enters: an action, the settings and a root. Leaves: a `Report`. May be raised: `TuningError`.
"""

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from fastkv.errors import SettingsError, TuningError
from fastkv.kernel.limits import OpenFiles
from fastkv.kernel.plan import Plan, Row, Verdict, judge, judge_open_files
from fastkv.kernel.profile import PROFILES, load
from fastkv.kernel.report import Report
from fastkv.kernel.sysctl import Tree
from fastkv.kernel.tuning import Outcome, Tuner
from fastkv.settings import default_state_directory

if TYPE_CHECKING:
    from fastkv.settings import Settings


class Action(StrEnum):
    """What is to be done."""

    SHOW = "show"
    CHECK = "check"
    APPLY = "apply"
    PERSIST = "persist"
    REVERT = "revert"


def run(action: Action, settings: "Settings", root: Path = Path("/"), *, persist: bool = False) -> Report:
    """Do one thing to the machine, and say what was done.

    Args:
        action: what.
        settings: profile, port, open_files and state_dir count.
        root: the root of the machine's files.
        persist: with `Action.APPLY`, also write the file that every boot reads.

    Returns:
        The report, with the machine as it is afterwards.

    Raises:
        SettingsError: below the root no kernel is to be seen.
        TuningError: the originals cannot be recorded or read, or a file cannot be written.
    """
    if not os.path.isdir(root / "proc/sys") and root != Path("/"):
        raise SettingsError(f"--root: '{root}' has no proc/sys, so that there is no kernel to be seen.")
    assert settings.state_dir is not None
    state_dir = settings.state_dir
    if root != Path("/") and state_dir == default_state_directory():
        # Another machine's originals: beside this one's they would be taken for those of an earlier boot, or
        # for this one's own.
        state_dir = root / "var/lib/fastkv"
    tree = Tree(root)
    tuner = Tuner(tree, state_dir)
    profile = load(settings.profile, settings.port)
    limits = judge_open_files(OpenFiles.look(settings.open_files))

    def look() -> Plan:
        return judge(tree, profile, limits)

    plan = look()
    match action:
        case Action.SHOW:
            return Report(action, plan, notes=_what_next(plan))
        case Action.CHECK:
            return Report(action, plan, notes=[_verdict(plan)], ok=plan.in_place)
        case Action.PERSIST:
            path = tuner.persist(plan)
            return Report(action, plan, persisted=path, notes=[f"Every boot now reads {path}."])
        case Action.REVERT:
            changes = tuner.revert()
            notes = [] if changes else ["Of this boot and network namespace no change is on record."]
            ok = all(change.outcome is not Outcome.FAILED for change in changes)
            removed = None
            try:
                removed = tuner.unpersist()
            except TuningError as error:  # what was restored has to be told all the same
                notes.append(str(error))
                ok = False
            if removed is not None:
                notes.append(f"{removed} is removed.")
            return Report(action, look(), changes, removed, notes, ok)
        case Action.APPLY:
            changes = tuner.apply(plan)
            # By the plan of before: in the one of now nothing is left that a boot would have to change.
            notes = [f"Risky, {row.name}: {row.why}" for row in plan.rows if _is_risk(row)]
            ok = all(change.outcome is Outcome.CHANGED for change in changes)
            persisted = None
            try:
                persisted = tuner.persist(plan) if persist else None
            except TuningError as error:  # what was changed has to be told all the same
                notes.append(str(error))
                ok = False
            after = look()
            nothing = "Nothing to change. " if plan.in_place else "Nothing that may be changed from here. "
            notes.append(_verdict(after) if changes else nothing + _verdict(after))
            notes += _privileges(after)
            if persisted is not None:
                notes.append(f"Every boot now reads {persisted}.")
            return Report(action, after, changes, persisted, notes, ok)


def _is_risk(row: Row) -> bool:
    return row.writes and row.verdict is Verdict.RISKY


def _what_next(plan: Plan) -> list[str]:
    """Say how to get what is missing, as far as it may be changed from here."""
    count = sum(row.writes for row in plan.rows)
    if not count:
        return _privileges(plan)
    chosen = "" if plan.profile.name == PROFILES[0] else f" --profile {plan.profile.name}"
    what = "1 setting" if count == 1 else f"{count} settings"
    return [f"fastkv tune-kernel{chosen} --apply changes {what}, --revert undoes it.", *_privileges(plan)]


def _privileges(plan: Plan) -> list[str]:
    """Say that root may do more, to whoever is not."""
    refused = any(row.counts and row.verdict is Verdict.NOT_PERMITTED for row in plan.rows)
    return ["What is not permitted here may be to root."] if refused and os.geteuid() else []


def _verdict(plan: Plan) -> str:
    """Say whether all is in place, and what is not."""
    missing = [row for row in plan.rows if row.counts and not row.in_place]
    if not missing:
        return f"Profile {plan.profile.name}: everything is as wanted or better."
    names = ", ".join(f"{row.name} ({row.verdict})" for row in missing)
    return f"Profile {plan.profile.name}: not as wanted are {names}."
