"""The kinds of settings that say who may speak; `fastkv.options` has the others and what a kind is."""

import re
from dataclasses import dataclass

from fastkv.names import is_name, parse_origin, split_authority
from fastkv.options import Several, UnfitError

_VISIBLE = re.compile(r"[!-~]+")
_MODE = re.compile(r"0?[0-7]{3}")


@dataclass(frozen=True, slots=True)
class Origins(Several):
    """Origins of pages, as browsers send them: ``https://example.com``."""

    metavar: str = "ORIGIN"
    allowed: str = "scheme://host or scheme://host:port without a path, or * for all, separated by commas"
    what: str = "an origin"

    def _normal(self, text: str) -> str | None:
        return text if text == "*" else parse_origin(text)


@dataclass(frozen=True, slots=True)
class HostNames(Several):
    """Hosts as requests name them; one with a port counts for that port only."""

    metavar: str = "NAME"
    allowed: str = "host names with or without a port, a dot before one for all below it, separated by commas"
    what: str = "a host name"

    def _normal(self, text: str) -> str | None:
        parts = split_authority(text)
        return text.lower() if parts and is_name(parts[0].removeprefix(".")) else None


@dataclass(frozen=True, slots=True)
class Secret:
    """A text that is never shown: not in an error, nor where its settings are."""

    most: int = 1024
    metavar: str = "TOKEN"

    @property
    def allowed(self) -> str:
        """What it may consist of."""
        return f"1 to {self.most} visible ASCII characters"

    def parse(self, raw: object) -> str | None:
        """Read a text; see `Kind.parse`. An empty one is not none: it may be a mistake that opens all."""
        if raw is None:
            return None
        if not isinstance(raw, str):
            raise UnfitError(_Unshown(), "is not a text")
        if not raw:
            raise UnfitError(_Unshown(), "is empty")
        if not _VISIBLE.fullmatch(raw):
            raise UnfitError(_Unshown(), "has a character that none may have")
        if len(raw) > self.most:
            raise UnfitError(_Unshown(), "is too long")
        return raw

    def show(self, _value: str | None) -> str:
        """Return nothing."""
        return ""


class _Unshown:
    """Stands for a secret in a sentence."""

    def __repr__(self) -> str:
        return "the token"


@dataclass(frozen=True, slots=True)
class Mode:
    """The permissions of a file, as text: of a number nobody can see whether it was meant to be octal."""

    metavar: str = "MODE"
    allowed: str = "three octal digits as text, such as 660, with or without a 0 before them"

    def parse(self, raw: object) -> str:
        """Read three octal digits; see `Kind.parse`."""
        if not isinstance(raw, str) or not _MODE.fullmatch(raw.strip()):
            raise UnfitError(raw, "is no mode of a file")
        return f"{int(raw, 8):04o}"

    def show(self, value: str) -> str:
        """Return the digits."""
        return value


_CLASSES = "g$lshzxetd"


@dataclass(frozen=True, slots=True)
class EventClasses:
    """Which events are told on channels, in Redis' letters; its ``A`` is short for all classes."""

    metavar: str = "LETTERS"
    allowed: str = f"letters of KEA{_CLASSES}, as Redis has them, with K or E among them; none for no events"

    def parse(self, raw: object) -> str:
        """Read letters, in any order; see `Kind.parse`."""
        if not isinstance(raw, str):
            raise UnfitError(raw, "is not a text")
        if not set(raw) <= set("KEA" + _CLASSES):
            raise UnfitError(raw, "has a letter that stands for no class of events")
        if raw and (not set(raw) & set("KE") or not set(raw) - set("KE")):
            raise UnfitError(raw, "names no class or no kind of channel")
        return raw

    def show(self, value: str) -> str:
        """Return the letters."""
        return value
