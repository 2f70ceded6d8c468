"""The profiles: which values are wanted, and when another one is as good.

Enters: the files of ``conf/``. Leaves: `Profile`, a list of `Setting`, each with what is wanted of it. The
data is this package's own, so a mistake in it is a bug, and raises as one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from mmap import PAGESIZE
from pathlib import Path
from typing import Any, Final

from fastkv.kernel.sysctl import parse_conf, path_of

PROFILES: Final = ("recommended", "ultrafast")
RESERVED_PORTS: Final = "net.ipv4.ip_local_reserved_ports"


class Scope(StrEnum):
    """Whose a setting is."""

    NETWORK = "network namespace"
    GLOBAL = "global"
    PROCESS = "process"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A setting, with all that is known about it; ``conf/tuning.toml`` describes the fields."""

    name: str
    scope: Scope
    rule: str
    why: str
    path: str
    accept: tuple[str, ...] = ()
    scaled: tuple[float, ...] = ()
    unit_bytes: int = PAGESIZE
    wanted: str | None = None
    advice: bool = False
    risk: str = ""
    gone: str = ""
    pod: str = ""

    def is_met(self, current: str, wanted: str) -> bool:
        """Return whether a value is as good as the wanted one, or better.

        Args:
            current: the value there is.
            wanted: the value of the profile.
        """
        return self.improved(current, wanted) == current

    def improved(self, current: str, wanted: str) -> str:
        """Return what to write so that nothing gets worse: of several numbers the good ones stay.

        Args:
            current: the value there is.
            wanted: the value of the profile.
        """
        try:
            return _RULES[self.rule](self, current, wanted)
        except ValueError:  # no kernel writes such a value
            return wanted


def _each(choose: Callable[[int, int], int], current: str, wanted: str) -> str:
    """Choose between the numbers of two values, pair by pair."""
    pairs = zip(map(int, current.split()), map(int, wanted.split()), strict=True)
    return " ".join(str(choose(a, b)) for a, b in pairs)


def _wider(_: Setting, current: str, wanted: str) -> str:
    (low, high), (least, most) = map(int, current.split()), map(int, wanted.split())
    return f"{min(low, least)} {max(high, most)}"


def ports(text: str) -> list[tuple[int, int]]:
    """Read a list of ports.

    Args:
        text: numbers and ranges, as in ``7171,9000-9100``.

    Returns:
        First and last port of each.

    Raises:
        ValueError: it is no such list.
    """
    pairs = (part.partition("-") for part in text.replace(" ", ",").split(",") if part)
    return [(int(low), int(high or low)) for low, _, high in pairs]


def _includes(_: Setting, current: str, wanted: str) -> str:
    have, want = ports(current), ports(wanted)
    if all(any(a <= low and high <= b for a, b in have) for low, high in want):
        return current
    # As the kernel writes it: what is read back after a crash then is what was noted before.
    merged: list[tuple[int, int]] = []
    for low, high in sorted(have + want):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return ",".join(f"{low}-{high}" if high > low else f"{low}" for low, high in merged)


_RULES: Final[Mapping[str, Callable[[Setting, str, str], str]]] = {
    "at least": lambda _, current, wanted: _each(max, current, wanted),
    "at most": lambda _, current, wanted: _each(min, current, wanted),
    "wider": _wider,
    "includes": _includes,
    "one of": lambda setting, current, wanted: current if current in setting.accept else wanted,
    "any": lambda _, current, _wanted: current,
}
"""What each rule makes of a value and the wanted one; a value that it leaves as it is meets it."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What is wanted of a machine.

    Attributes:
        name: its name.
        exact: the values are wanted as they are written, whatever is better.
        settings: what is known about each, in the order in which they are written.
        values: the wanted values by name; a setting without one is left as it is.
    """

    name: str
    exact: bool
    settings: tuple[Setting, ...]
    values: Mapping[str, str]

    def wanted(self, setting: Setting, memory_bytes: int) -> str | None:
        """Return the value that is wanted of a setting.

        Args:
            setting: the setting.
            memory_bytes: memory of the machine, 0 where it is unknown.

        Returns:
            The value, None where there is none.
        """
        if setting.wanted is not None:
            return setting.wanted
        value = self.values.get(setting.name)
        if value is None and setting.scaled and memory_bytes:
            shares = (int(memory_bytes * share / setting.unit_bytes) for share in setting.scaled)
            return " ".join(map(str, shares))
        return value


def conf_directory() -> Path:
    """Return where the files of ``conf/`` are: in the installed package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def load(name: str, port: int | None = None, conf: Path | None = None) -> Profile:
    """Read a profile.

    Args:
        name: one of `PROFILES`.
        port: the port to reserve in place of the one in the file; None or 0 keeps that.
        conf: the directory with the files; found when None.

    Returns:
        The profile.
    """
    conf = conf or conf_directory()
    import tomllib  # late: no server needs it that leaves the kernel as it is

    known = tomllib.loads((conf / "tuning.toml").read_text(encoding="utf-8"))
    values = parse_conf((conf / f"{name}.conf").read_text(encoding="utf-8"))
    values |= known["profiles"][name].get("gone", {})
    if port and RESERVED_PORTS in values:
        values[RESERVED_PORTS] = str(port)
    settings = tuple(_setting(table) for table in known["settings"])
    unknown = values.keys() - {setting.name for setting in settings}
    if unknown:
        raise ValueError(f"{name}.conf sets what tuning.toml does not know: {sorted(unknown)}")
    return Profile(name, known["profiles"][name]["exact"], settings, values)


def _setting(table: dict[str, Any]) -> Setting:
    table = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    return Setting(**{"path": path_of(table["name"]), **table, "scope": Scope(table["scope"])})
