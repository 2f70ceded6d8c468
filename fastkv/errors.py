"""Errors that a person is meant to read.

The text of each is one sentence on one line that says what is wrong and what would be right. The command line
prints it after ``fastkv: `` and exits with the error's code; a traceback is left to bugs.
"""

from typing import ClassVar


class FastKVError(Exception):
    """Base of every error that is answered with one line and an exit code.

    Attributes:
        exit_code: What the process exits with, 1 to 125.
    """

    exit_code: ClassVar[int] = 1


class SettingsError(FastKVError):
    """A setting is wrong: the sentence names the option, its source and what is allowed."""

    exit_code: ClassVar[int] = 2


class StartError(FastKVError):
    """The settings are right, but the machine refuses: too little memory, a port in use."""


class TuningError(FastKVError):
    """A kernel setting cannot be changed, recorded or put back."""


class SnapshotError(FastKVError):
    """A snapshot is damaged, or cannot be saved or loaded."""


class StoreError(FastKVError):
    """The store refuses an operation; nothing of it was done."""


class StoreBusy(StoreError):
    """A lock or room was not to be had within its bound: the same call may succeed later."""


class StoreFull(StoreError):
    """No room could be made, even by evicting."""


class WrongCursor(StoreError):
    """A cursor is none that this store has given."""


class KeyTooLong(StoreError):
    """The key is longer than it may be."""


class ValueTooLong(StoreError):
    """The value is longer than it may be, or than the store can ever hold."""


class BatchTooLong(FastKVError):
    """More commands come together than may."""


class WalkTooLong(FastKVError):
    """There are more entries than one command may look at."""


class ReplyTooLong(FastKVError):
    """The values that are asked for are longer together than a reply may be."""
