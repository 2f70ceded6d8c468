"""Changes to the machine: applied, verified, made to last, and undone.

Enters: a `Plan`. Leaves: a `Change` for every setting that was touched. A setting that cannot be written does
not keep the others from it. Originals are on disk before the first write. May be raised: `TuningError`.
"""

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from fastkv.errors import TuningError
from fastkv.kernel.journal import Entry, Journal, replace_file
from fastkv.kernel.plan import Plan, Row, Verdict, judge
from fastkv.kernel.profile import Scope, Setting, load
from fastkv.kernel.sysctl import Tree, network_namespace, parse_conf

PERSISTED: Final = "etc/sysctl.d/60-fastkv.conf"
"""Below the root; an administrator's ``99-`` comes after it, and wins (sysctl.d(5))."""

_MARK: Final = "# Written by fastkv tune-kernel"
_MACHINE: Final = "global"
# All that a setting of the table can hold. The record may lie where an unprivileged service can write, and is
# read by whoever restores it.
_VALUE: Final = re.compile(r"[0-9 ,-]{0,400000}|[a-z_]{1,32}")


class Outcome(StrEnum):
    """What became of a setting."""

    CHANGED = "changed"
    RESTORED = "restored"
    FAILED = "failed"
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class Change:
    """A setting that was touched.

    Attributes:
        name: the setting.
        before: its value before.
        after: its value now.
        outcome: what became of it.
        reason: why it failed or was left, as a sentence.
    """

    name: str
    before: str | None
    after: str | None
    outcome: Outcome
    reason: str = ""

    def __str__(self) -> str:
        """Return it as a line for a person."""
        if self.after is None:
            return f"{self.name} is left: {self.reason}"
        if self.outcome is Outcome.RESTORED and self.before == self.after:
            return f"{self.name}: {self.after or 'empty'}, as it was"
        if self.outcome in (Outcome.CHANGED, Outcome.RESTORED):
            return f"{self.name}: {self.before or 'empty'} → {self.after or 'empty'}"
        return f"{self.name} stays {self.after or 'empty'}: {self.reason}"


@dataclass(slots=True)
class Tuner:
    """Changes the settings of a machine.

    Attributes:
        tree: the machine.
        state_dir: where originals are kept.
    """

    tree: Tree
    state_dir: Path
    _network: str = field(default_factory=network_namespace)

    def apply(self, plan: Plan) -> list[Change]:
        """Write what a plan says, and read it back.

        Args:
            plan: the plan.

        Returns:
            What became of each setting that the plan writes.

        Raises:
            TuningError: the originals cannot be recorded; then nothing was written.
        """
        if not any(row.writes for row in plan.rows):
            return []
        with self._journal(create=True) as journal:
            known = {(space, name) for space, entries in journal.spaces.items() for name in entries}
            # Again, now that nobody else is at it: another process may have changed something since.
            rows = [row for row in judge(self.tree, plan.profile).rows if row.writes]
            for row in rows:
                journal.note(self._space(row.scope), row.name, row.current or "", row.wanted or "")
            journal.save()
            changes = []
            for row in rows:
                change = self._write(row, plan.profile.exact)
                changes.append(change)
                place = (self._space(row.scope), row.name)
                if change.after not in (None, row.current, row.wanted):
                    # The kernel made something else of it, which is from here all the same.
                    journal.note(*place, row.current or "", change.after or "")
                elif change.after == row.current and place not in known:
                    journal.forget(*place)
                else:
                    continue
                # The originals are on disk, whatever becomes of this.
                with suppress(TuningError):
                    journal.save()
        return changes

    def _write(self, row: Row, exact: bool) -> Change:
        setting, wanted = row.setting, row.wanted or ""
        assert setting is not None
        try:
            self.tree.write(setting.path, wanted)
        except OSError as error:
            reason = f"the kernel did not take {wanted} ({error.strerror or error})."
            return Change(row.name, row.current, self.tree.read(setting.path), Outcome.FAILED, reason)
        after = self.tree.read(setting.path)
        met = after is not None and (after == wanted if exact else setting.is_met(after, wanted))
        if after is not None and setting.rule == "includes":
            met = setting.is_met(after, wanted)
        if not met:
            reason = f"{wanted} was written, but this is what is read back."
            return Change(row.name, row.current, after, Outcome.FAILED, reason)
        return Change(row.name, row.current, after, Outcome.CHANGED)

    def revert(self) -> list[Change]:
        """Restore the originals of this boot, of the machine and of this network namespace.

        A value that is neither the original nor one that was written from here is somebody else's since, and
        is left. What cannot be restored stays in the record.

        Returns:
            What became of each setting in the record.

        Raises:
            TuningError: the record cannot be used.
        """
        settings = _writable_settings()
        changes: list[Change] = []
        with self._journal(create=False) as journal:
            for space in (_MACHINE, self._network):
                # Backwards: what was written first is what the rest may rely on.
                for name, entry in reversed(list(journal.spaces.get(space, {}).items())):
                    change = self._restore(name, entry, settings.get(name))
                    # What could not be looked at may be another's to restore: a namespace has not all of it.
                    if change.outcome is not Outcome.FAILED and change.before is not None:
                        journal.forget(space, name)
                    changes.append(change)
            if changes:
                journal.save()
        return changes

    def undo(self, changes: Sequence[Change]) -> list[Change]:
        """Put back what `apply` has just changed, and nothing that was changed before it or since.

        A setting that an earlier start changed first gets the value of that start, and stays in the record.

        Args:
            changes: what `apply` returned.

        Returns:
            What became of each setting that was changed.

        Raises:
            TuningError: the record cannot be used.
        """
        changed = [change for change in reversed(changes) if change.after not in (None, change.before)]
        if not changed:
            return []
        settings = _writable_settings()
        undone: list[Change] = []
        with self._journal(create=True) as journal:
            for change in changed:
                setting = settings[change.name]
                entry = Entry(change.before or "", [change.after or ""])
                undone.append(self._restore(change.name, entry, setting))
                space = self._space(setting.scope)
                recorded = journal.spaces.get(space, {}).get(change.name)
                if recorded is not None and recorded.original == undone[-1].after:
                    journal.forget(space, change.name)
            journal.save()
        return undone

    def _restore(self, name: str, entry: Entry, setting: Setting | None) -> Change:
        if setting is None or not _VALUE.fullmatch(entry.original):
            return Change(name, None, None, Outcome.LEFT, "the record names no value that it could have had.")
        before = self.tree.read(setting.path)
        if before == entry.original:
            return Change(name, before, before, Outcome.RESTORED)
        if before is None:
            reason = "it is not there; only the host's own network namespace may have it."
            return Change(name, None, None, Outcome.LEFT, reason)
        if before not in entry.ours:
            return Change(name, before, before, Outcome.LEFT, "it was changed by somebody else since.")
        try:
            self.tree.write(setting.path, entry.original)
        except OSError as error:
            reason = f"the kernel did not take {entry.original} ({error.strerror or error})."
            return Change(name, before, before, Outcome.FAILED, reason)
        after = self.tree.read(setting.path)
        if after != entry.original:
            reason = f"{entry.original} was written, but this is what is read back."
            return Change(name, before, after, Outcome.FAILED, reason)
        return Change(name, before, after, Outcome.RESTORED)

    def persist(self, plan: Plan) -> Path:
        """Write the settings that a plan changes, or an earlier one has changed, where every boot reads them.

        Args:
            plan: the plan, made before it is applied.

        Returns:
            The file.

        Raises:
            TuningError: it cannot be written, or a file of that name is not from here.
        """
        path = self.tree.root / PERSISTED
        before = self._persisted(path)
        with self._journal(create=False) as journal:
            recorded = {name for entries in journal.spaces.values() for name in entries}
        lines = [
            f"{'-' if row.scope is Scope.GLOBAL else ''}{row.name} = {row.wanted}"
            for row in plan.rows
            if row.setting is not None
            and row.setting.path.startswith("proc/sys/")
            and row.wanted is not None
            and (row.writes or row.verdict is Verdict.NOT_PERMITTED or row.name in {*recorded, *before})
            and row.verdict not in (Verdict.OBSOLETE, Verdict.ABSENT)
            and not row.setting.advice
        ]
        head = [
            f"{_MARK} --profile {plan.profile.name} --persist;",
            "# fastkv tune-kernel --revert removes it. A later file, such as 99-local.conf, wins over it.",
        ]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, "\n".join([*head, *lines]) + "\n")
        except OSError as error:
            raise TuningError(f"--persist: '{path}' cannot be written ({error.strerror or error}).") from None
        return path

    def unpersist(self) -> Path | None:
        """Remove what `persist` wrote.

        Returns:
            The file, None where there was none.

        Raises:
            TuningError: it cannot be removed, or is not from here.
        """
        path = self.tree.root / PERSISTED
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
            if not text.startswith(_MARK):
                raise _foreign(path)
            path.unlink()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise TuningError(f"'{path}' cannot be removed ({error.strerror or error}).") from None
        return path

    def _persisted(self, path: Path) -> dict[str, str]:
        """What an earlier `persist` wrote."""
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise TuningError(f"--persist: '{path}' cannot be read ({error.strerror or error}).") from None
        if not text.startswith(_MARK):
            raise _foreign(path)
        try:
            return parse_conf(text)
        except ValueError:
            return {}

    def _journal(self, *, create: bool) -> AbstractContextManager[Journal]:
        return Journal.opened(self.state_dir, self.tree.boot_id(), create=create)

    def _space(self, scope: Scope) -> str:
        return self._network if scope is Scope.NETWORK else _MACHINE


def _writable_settings() -> dict[str, Setting]:
    """The settings that `Tuner.apply` may write, by name."""
    known = (setting for setting in load("recommended").settings if not (setting.advice or setting.gone))
    return {setting.name: setting for setting in known}


def _foreign(path: Path) -> TuningError:
    return TuningError(f"'{path}' was not written by fastkv; it is left alone.")
