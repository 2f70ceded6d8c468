"""What a profile would change on this machine, and why: judged, not done.

Enters: a `Tree` and a `Profile`. Leaves: a `Row` for every setting. Nothing is changed, nothing is raised.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from fastkv.kernel.limits import OpenFiles
from fastkv.kernel.profile import Profile, Scope, Setting
from fastkv.kernel.sysctl import Tree


class Verdict(StrEnum):
    """What is to be done about a setting."""

    APPLY = "apply"
    BETTER = "already better"
    OBSOLETE = "obsolete"
    RISKY = "risky"
    NOT_PERMITTED = "not permitted"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Row:
    """A setting as it is, and as it should be.

    Attributes:
        name: as sysctl(8) writes it.
        scope: whose it is.
        current: its value, None where it is absent.
        wanted: what it should be, None where the profile leaves it alone.
        verdict: what is to be done.
        why: one line.
        setting: what is known about it, None for a limit of the process.
    """

    name: str
    scope: Scope
    current: str | None
    wanted: str | None
    verdict: Verdict
    why: str
    setting: Setting | None = None

    @property
    def writes(self) -> bool:
        """Whether applying the plan writes it."""
        return self.counts and self.verdict in (Verdict.APPLY, Verdict.RISKY)

    @property
    def counts(self) -> bool:
        """Whether it is this program's to change: advice is not, and limits are each process's own."""
        return self.setting is not None and not self.setting.advice

    @property
    def in_place(self) -> bool:
        """Whether nothing is missing: it is as wanted or better, or there is nothing that could be."""
        return self.verdict in (Verdict.BETTER, Verdict.OBSOLETE, Verdict.ABSENT)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a profile would change.

    Attributes:
        profile: the profile.
        rows: one for every setting.
        limits: one for every limit of the process; `fastkv serve` raises its own when it starts.
    """

    profile: Profile
    rows: Sequence[Row]
    limits: Sequence[Row]

    @property
    def in_place(self) -> bool:
        """Whether every setting that counts is as wanted or better."""
        return all(row.in_place for row in self.rows if row.counts)


def judge(tree: Tree, profile: Profile, limits: Sequence[Row] = ()) -> Plan:
    """Compare a machine with a profile.

    Args:
        tree: the machine.
        profile: what is wanted.
        limits: what `judge_open_files` said, for whoever wants to see it.

    Returns:
        The plan.
    """
    memory_bytes = tree.memory_bytes()
    rows = [_row(tree, profile, setting, memory_bytes) for setting in profile.settings]
    return Plan(profile, rows, limits)


def _row(tree: Tree, profile: Profile, setting: Setting, memory_bytes: int) -> Row:
    current = tree.read(setting.path)
    wanted = profile.wanted(setting, memory_bytes)
    # A list of ports is only ever added to: what others reserved is theirs.
    exact = profile.exact and setting.name in profile.values and setting.rule != "includes"
    why = setting.why

    def row(verdict: Verdict, reason: str = "") -> Row:
        return Row(setting.name, setting.scope, current, wanted, verdict, reason or why, setting)

    if setting.gone:
        return row(Verdict.OBSOLETE)
    if current is None:
        return row(Verdict.ABSENT, f"{_absent(setting)} {(exact and setting.risk) or why}")
    if wanted is not None and not exact:
        wanted = setting.improved(current, wanted)
    if wanted is None or wanted == current:
        return row(Verdict.BETTER)
    if setting.advice:
        return row(Verdict.RISKY)
    risk = ""
    if exact and setting.risk:
        risk = setting.risk
    elif exact and setting.rule != "any" and setting.is_met(current, wanted):
        risk = f"The present {current} is better. {why}"
    elif exact and not setting.is_met(wanted, current):
        risk = f"The present {current} is better in part. {why}"
    # Also to whoever sets it from elsewhere the risk is told.
    if not tree.is_writable(setting.path):
        return row(Verdict.NOT_PERMITTED, risk)
    return row(Verdict.RISKY if risk else Verdict.APPLY, risk)


def _absent(setting: Setting) -> str:
    if setting.scope is Scope.GLOBAL and setting.path.startswith("proc/sys/net"):
        return "Only the host's own network namespace has it."
    return "This kernel does not have it."


def judge_open_files(files: OpenFiles) -> list[Row]:
    """Compare the limits of open files with what is wanted of them.

    Args:
        files: the limits.

    Returns:
        A row for the soft limit and one for the hard.
    """
    wanted = str(files.wanted)
    where = "LimitNOFILE= of systemd, --ulimit nofile= of docker run, limits.conf(5) for a login"

    def verdict(limit: int) -> Verdict:
        if limit >= files.wanted:
            return Verdict.BETTER
        return Verdict.APPLY if files.reachable > limit else Verdict.NOT_PERMITTED

    soft_why = "Open files of a process, one for each connection; fastkv serve raises it as far as it may."
    hard_why = f"How far that may be raised: {where}."
    return [
        Row("nofile (soft)", Scope.PROCESS, str(files.soft), wanted, verdict(files.soft), soft_why),
        Row("nofile (hard)", Scope.PROCESS, str(files.hard), wanted, verdict(files.hard), hard_why),
    ]
