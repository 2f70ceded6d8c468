"""What settings were before they were changed, so that they can be put back, also after a crash.

Enters: originals, noted and saved before anything is written. Leaves: the same, for as long as the kernel
that they belong to runs: after a boot every setting is the kernel's own again. A file for each boot; in it a
table for the machine, and one for each network namespace. May be raised: `TuningError`.
"""

import fcntl
import json
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from fastkv.errors import TuningError

_FORMAT: Final = 1
_RECORD: Final = re.compile(r"tuning-[\w-]+\.json|\.tuning-[\w-]+\.json\.\d+")
_NAME: Final = re.compile(r"[a-z0-9_.-]{1,128}", re.ASCII)
_MOST_CHARACTERS: Final = 1 << 22
_WAIT_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.02


@dataclass(slots=True)
class Entry:
    """A setting that was changed.

    Attributes:
        original: its value before the first change.
        ours: the values that were written since; another one is somebody else's.
    """

    original: str
    ours: list[str] = field(default_factory=list)


Space = dict[str, Entry]
"""The entries of the machine, or of a network namespace, by name of the setting."""


class Journal:
    """The record of one boot.

    Attributes:
        path: its file.
        spaces: the entries, by what they belong to.
    """

    def __init__(self, path: Path, spaces: dict[str, Space]) -> None:
        self.path = path
        self.spaces = spaces

    @classmethod
    @contextmanager
    def opened(cls, directory: Path, boot_id: str, *, create: bool) -> Iterator[Self]:
        """Open the record; nobody else has it open meanwhile.

        Args:
            directory: where records are kept.
            boot_id: names the run of the kernel.
            create: make the directory where it is missing.

        Yields:
            The record, empty where there is none.

        Raises:
            TuningError: the directory cannot be used, the record cannot be read, or another process has it.
        """
        path = directory / _name_for(boot_id)
        if not create and not _exists(path):
            yield cls(path, {})
            return
        with _locked(directory):
            yield cls(path, _read(path))

    def note(self, space: str, name: str, original: str, value: str) -> None:
        """Note that a setting is about to be written; the original of an earlier change stays.

        Args:
            space: what it belongs to.
            name: the setting.
            original: its present value.
            value: what will be written.
        """
        entry = self.spaces.setdefault(space, {}).setdefault(name, Entry(original))
        if value not in entry.ours:
            entry.ours.append(value)

    def forget(self, space: str, name: str) -> None:
        """Drop an entry: the setting has its original value, or somebody else's.

        Args:
            space: what it belongs to.
            name: the setting.
        """
        entries = self.spaces.get(space, {})
        entries.pop(name, None)
        if not entries:
            self.spaces.pop(space, None)

    def save(self) -> None:
        """Write the record, whole or not at all; an empty one is removed.

        Those of earlier boots are too, unless nobody knows which boot this is, and what a killed process
        left half written.

        Raises:
            TuningError: it cannot be written.
        """
        try:
            if self.spaces:
                self._write()
            else:
                self.path.unlink(missing_ok=True)
        except OSError as error:
            raise _unusable(self.path.parent, error) from None
        if self.path.name == _name_for("unknown"):
            return
        with suppress(OSError):  # they are in nobody's way
            for other in self.path.parent.iterdir():
                if other != self.path and _RECORD.fullmatch(other.name):
                    other.unlink(missing_ok=True)

    def _write(self) -> None:
        spaces = {
            space: {name: asdict(entry) for name, entry in entries.items()}
            for space, entries in self.spaces.items()
        }
        text = json.dumps({"format": _FORMAT, "spaces": spaces}, indent=1)
        replace_file(self.path, text + "\n")


def replace_file(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all, also when the machine goes down.

    Args:
        path: where.
        text: its content.

    Raises:
        OSError: it cannot be written.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}")
    # Made anew: a link that somebody has put there must not be followed.
    new.unlink(missing_ok=True)
    try:
        # Whatever the umask is: nobody else may say what every boot sets, or what a setting was.
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keep other processes from the records of a directory."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        lock = os.open(directory / "tuning.lock", flags, 0o600)
    except OSError as error:
        raise _unusable(directory, error) from None
    try:
        deadline = time.monotonic() + _WAIT_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TuningError(
                        f"--state-dir: another process works on the record in '{directory}'."
                    ) from None
                time.sleep(_POLL_SECONDS)
            except OSError as error:
                raise _unusable(directory, error) from None
        yield
    finally:
        os.close(lock)


def _unusable(directory: Path, error: OSError) -> TuningError:
    return TuningError(
        f"--state-dir: what the settings were cannot be recorded in '{directory}' "
        f"({error.strerror or error}); without that nothing is changed."
    )


def _name_for(boot_id: str) -> str:
    return f"tuning-{boot_id}.json"


def _exists(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _unusable(path.parent, error) from None
    return True


def _read(path: Path) -> dict[str, Space]:
    """Read a record; one that makes no sense is an error: new originals would bury those that it may hold."""
    try:
        # Not blocking: what lies there may be no file.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), encoding="utf-8") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise ValueError("it is no file")
            text = stream.read(_MOST_CHARACTERS + 1)
        if len(text) > _MOST_CHARACTERS:
            raise ValueError("it is too long")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise TuningError(f"--state-dir: the record '{path}' cannot be read ({error}).") from None
    try:
        record: Any = json.loads(text)
        if record["format"] != _FORMAT:
            raise ValueError("another format")
        return {
            str(space): {_named(name): _entry(entry) for name, entry in entries.items()}
            for space, entries in record["spaces"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TuningError(
            f"--state-dir: the record '{path}' makes no sense ({error}); move it away if the original values "
            "do not matter."
        ) from None


def _named(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("a name that no setting has")
    return name


def _entry(entry: dict[str, Any]) -> Entry:
    original, ours = entry["original"], entry["ours"]
    if not isinstance(original, str) or not all(isinstance(value, str) for value in ours):
        raise ValueError("a value is no text")
    return Entry(original, list(ours))
