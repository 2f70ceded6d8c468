"""What a setting is: a name on each of three sources, and a kind that reads, bounds and shows its values.

Enters: what a flag, a variable or a TOML file says, as text or as TOML's own types. Leaves: a value within
    its bounds. A kind raises `UnfitError` with the words that complete the sentence; only `Option.parse`
    knows whose sentence it is, and raises `SettingsError`.
"""

import ipaddress
import math
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

from fastkv.errors import SettingsError

AUTO = "auto"

_UNITS = {"gb": 1 << 30, "mb": 1 << 20, "kb": 1 << 10}
_FACTORS = {"g": 1 << 30, "m": 1 << 20, "k": 1 << 10, "": 1}
# Twenty digits hold every bound, and keep int() away from the quadratic time of thousands of them.
_WHOLE = re.compile(r"[+-]?[0-9]{1,20}")
_SIZE = re.compile(r"([+-]?[0-9]{1,20}(?:\.[0-9]{1,20})?) ?(?:([kmg])(?:i?b)?|b?)", re.IGNORECASE | re.ASCII)
_SECONDS = re.compile(r"[+-]?[0-9]{1,20}(?:\.[0-9]{1,20})?")
_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)(?:(?!-)[a-z0-9_-]{1,63}(?<!-)\.)*(?!-)(?![0-9]+\Z)[a-z0-9_-]{1,63}(?<!-)",
    re.IGNORECASE | re.ASCII,  # without ASCII the Kelvin sign is a k
)


class UnfitError(ValueError):
    """A value that a kind does not take.

    Args:
        shown: The part of the value that is wrong.
        problem: What is wrong with it: ``is out of range``.
    """

    def __init__(self, shown: object, problem: str) -> None:
        super().__init__(shown, problem)
        self.shown = shown
        self.problem = problem


class Kind(Protocol):
    """How the values of an option are read, bounded and shown."""

    @property
    def metavar(self) -> str:
        """One word for a value in the help."""

    @property
    def allowed(self) -> str:
        """The bounds and their unit, to follow ``allowed:``."""

    def parse(self, raw: object) -> Any:
        """Return the value that text or a TOML value stands for; what was parsed before comes back unchanged.

        Raises:
            UnfitError: It stands for none, or for one out of bounds.
        """

    def show(self, value: Any) -> str:
        """Return a value as text that `parse` reads back."""


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number from ``low`` to ``high``, both included, of ``unit`` where it has one."""

    low: int
    high: int
    unit: str = ""
    metavar: str = "N"
    power_of_two: bool = False

    @property
    def allowed(self) -> str:
        """The range, its unit, and whether only powers of two count."""
        what = "a power of two from " if self.power_of_two else ""
        return f"{what}{self.show(self.low)} to {self.show(self.high)}{self.unit and ' ' + self.unit}"

    def parse(self, raw: object) -> int:
        """Read a number; see `Kind.parse`."""
        value = self.read(raw)
        if not self.low <= value <= self.high:
            raise UnfitError(raw, "is out of range")
        if self.power_of_two and value & (value - 1):
            raise UnfitError(raw, "is not a power of two")
        return value

    def read(self, raw: object) -> int:
        """Read a number of any size."""
        if isinstance(raw, int) and not isinstance(raw, bool):
            return raw
        if isinstance(raw, str) and _WHOLE.fullmatch(raw.strip()):
            return int(raw)
        raise UnfitError(raw, "is not a whole number")

    def show(self, value: int) -> str:
        """Return the digits."""
        return str(value)


@dataclass(frozen=True, slots=True)
class Size(Whole):
    """A number of bytes from ``low`` to ``high``.

    Plain, or with a unit in any case: ``kb``, ``k`` and ``KiB`` are the same, and so for m and g. All are
    powers of 1024, as memory is measured.
    """

    metavar: str = "SIZE"

    @property
    def allowed(self) -> str:
        """The range."""
        what = "a power of two from " if self.power_of_two else ""
        # A bound one short of a round figure has no short name of its own.
        high = f"less than {self.show(self.high + 1)}" if self.high & 1 else self.show(self.high)
        # "1 to 4kb" would read as 1kb to 4kb.
        low = "1 byte" if self.low == 1 else self.show(self.low)
        return f"{what}{low} to {high}"

    def read(self, raw: object) -> int:
        """Read a size; a fraction of a unit is rounded down to whole bytes."""
        if isinstance(raw, int) and not isinstance(raw, bool):
            return raw
        match = _SIZE.fullmatch(raw.strip()) if isinstance(raw, str) else None
        if match is None or (match[2] is None and "." in match[1]):
            raise UnfitError(raw, "is not a size, such as 1000, 64kb, 512M or 2GiB")
        return math.floor(Fraction(match[1]) * _FACTORS[(match[2] or "").lower()])

    def show(self, value: int) -> str:
        """Return the size in the largest unit that divides it."""
        return format_size(value)


@dataclass(frozen=True, slots=True)
class Seconds:
    """A duration from ``low`` to ``high`` seconds, fractions allowed."""

    low: float
    high: float
    metavar: str = "SECONDS"

    @property
    def allowed(self) -> str:
        """The range and its unit."""
        return f"{self.show(self.low)} to {self.show(self.high)} seconds"

    def parse(self, raw: object) -> float:
        """Read a plain number of seconds; see `Kind.parse`."""
        if isinstance(raw, str) and _SECONDS.fullmatch(raw.strip()):
            value = float(raw)
        elif isinstance(raw, int | float) and not isinstance(raw, bool) and math.isfinite(raw):
            value = raw
        else:
            raise UnfitError(raw, "is not a number of seconds")
        if not self.low <= value <= self.high:
            raise UnfitError(raw, "is out of range")
        return float(value)

    def show(self, value: float) -> str:
        """Return the number without needless zeros."""
        return f"{value:.15g}"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words, in any case."""

    words: tuple[str, ...]
    metavar: str

    @property
    def allowed(self) -> str:
        """The words."""
        return f"{', '.join(self.words[:-1])} or {self.words[-1]}"

    def parse(self, raw: object) -> str:
        """Read a word; see `Kind.parse`."""
        word = raw.strip().lower() if isinstance(raw, str) else None
        if word not in self.words:
            raise UnfitError(raw, "is not known")
        return word

    def show(self, value: str) -> str:
        """Return the word."""
        return value


@dataclass(frozen=True, slots=True)
class Switch:
    """Yes or no: ``--name`` and ``--no-name`` among the flags."""

    metavar: str = ""
    allowed: str = "true, false, yes, no, on, off, 1 or 0"

    def parse(self, raw: object) -> bool:
        """Read a truth value; see `Kind.parse`."""
        if isinstance(raw, bool):
            return raw
        word = raw.strip().lower() if isinstance(raw, str) else None
        if word in ("true", "yes", "on", "1"):
            return True
        if word in ("false", "no", "off", "0"):
            return False
        raise UnfitError(raw, "is neither true nor false")

    def show(self, value: bool) -> str:
        """Return TOML's word for it."""
        return "true" if value else "false"


@dataclass(frozen=True, slots=True)
class Several:
    """Texts of one kind, each once: a list in a file, commas elsewhere, and a flag that may be repeated."""

    metavar: str = "TEXT"
    allowed: str = "texts separated by commas"
    what: str = "a text"
    may_be_empty: bool = True

    def parse(self, raw: object) -> tuple[str, ...]:
        """Read a list, or text with commas; see `Kind.parse`."""
        if not isinstance(raw, str | list | tuple):
            raise UnfitError(raw, f"is not {self.what}")
        listed = (raw,) if isinstance(raw, str) else raw
        items = [part for item in listed for part in (item.split(",") if isinstance(item, str) else [item])]
        if self.may_be_empty and not "".join(map(str, items)).strip():
            return ()
        if not items:
            raise UnfitError(raw, f"is not {self.what}")
        return tuple(dict.fromkeys(map(self._read, items)))

    def show(self, value: tuple[str, ...]) -> str:
        """Return the texts with commas."""
        return ",".join(value)

    def _read(self, item: object) -> str:
        """Read one.

        Raises:
            UnfitError: It does not fit.
        """
        read = self._normal(item.strip()) if isinstance(item, str) else None
        if read is None:
            raise UnfitError(item, f"is not {self.what}")
        return read

    def _normal(self, text: str) -> str | None:
        """Return one in its normal form, None for what does not fit."""
        return text or None


@dataclass(frozen=True, slots=True)
class Hosts(Several):
    """One or several addresses to listen on: IPv4, IPv6 (with brackets or without) or a host name."""

    metavar: str = "HOST"
    allowed: str = "IPv4 and IPv6 addresses and host names, several of them separated by commas"
    what: str = "an address"
    may_be_empty: bool = False

    def _normal(self, text: str) -> str | None:
        bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
        try:
            address = ipaddress.ip_address(bare)
        except ValueError:
            return text if _HOST_NAME.fullmatch(text) else None
        if isinstance(address, ipaddress.IPv6Address):
            # ::ffff:127.0.0.1 is an IPv4 address (RFC 4291, 2.5.5.2).
            return str(address.ipv4_mapped) if address.ipv4_mapped else bare
        return bare if bare == text else None


@dataclass(frozen=True, slots=True)
class FilePath:
    """A path of at most ``most_bytes``; an empty text is none."""

    most_bytes: int = 4095  # PATH_MAX with its NUL
    metavar: str = "PATH"

    @property
    def allowed(self) -> str:
        """The length."""
        return f"a path of at most {self.most_bytes} bytes"

    def parse(self, raw: object) -> Path | None:
        """Read a path; see `Kind.parse`."""
        if raw is None or raw == "":
            return None
        if not isinstance(raw, str | Path) or "\0" in str(raw):
            raise UnfitError(raw, "is not a path")
        if len(str(raw).encode("utf-8", "surrogateescape")) > self.most_bytes:
            raise UnfitError(raw, "is too long")
        return Path(raw)

    def show(self, value: Path | None) -> str:
        """Return the path."""
        return str(value or "")


@dataclass(frozen=True, slots=True)
class SocketPath(FilePath):
    """The path of a Unix socket; an empty text is none."""

    most_bytes: int = 107  # unix(7): sun_path has 108 bytes, the last of them NUL


@dataclass(frozen=True, slots=True)
class Option:
    """One setting, as every source and the help know it.

    Attributes:
        field: Its field in `Settings`.
        name: Its key in a file; flag and variable derive from it.
        kind: What its values are.
        default: The value where no source says any; None where it is found out or there is none.
        auto: How an automatic default is found out; "" where the default is a plain value.
        summary: One sentence for help and file.
    """

    field: str
    name: str
    kind: Kind
    default: Any
    auto: str
    summary: str

    @property
    def flag(self) -> str:
        """The flag: ``--max-key-bytes``."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable: ``FASTKV_MAX_KEY_BYTES``."""
        return "FASTKV_" + self.name.upper()

    @property
    def allowed(self) -> str:
        """What may be given, to follow ``allowed:``."""
        return f"{self.kind.allowed}, or {AUTO}" if self.auto else self.kind.allowed

    @property
    def shown_default(self) -> str:
        """The default as the help shows it."""
        if self.auto:
            return self.auto
        if self.default in (None, ()):
            return "none"
        shown = self.kind.show(self.default)
        return f"{shown} bytes" if isinstance(self.kind, Size) and shown.isdecimal() else shown

    def parse(self, raw: object, source: str) -> Any:
        """Read a value, or None for ``auto`` where the option has an automatic default.

        Args:
            raw: Text, or a TOML value, or a value of the field itself.
            source: How the sentence names the culprit: ``--port``, ``FASTKV_PORT (environment)``.

        Raises:
            SettingsError: It is not allowed.
        """
        # A flag that may be repeated gives a list.
        only = raw[0] if isinstance(raw, list) and len(raw) == 1 else raw
        if self.auto and (only is None or (isinstance(only, str) and only.strip().lower() == AUTO)):
            return None
        try:
            return self.kind.parse(raw)
        except UnfitError as error:
            raise SettingsError(
                f"{source}: {quote(error.shown)} {error.problem}; allowed: {self.allowed}."
            ) from None


def format_size(size: int) -> str:
    """Return a size in the largest unit that divides it: ``256mb``, ``1536kb``, ``1000``.

    Args:
        size: Bytes, 0 or more.
    """
    return next(
        (f"{size // unit}{name}" for name, unit in _UNITS.items() if size and size % unit == 0), str(size)
    )


def quote(value: object) -> str:
    """Return a value as it was written, on one line of at most 60 characters."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
