"""The limit of open files: looked at without a trace, raised as far as it goes, never lowered."""

import resource

import pytest
from kernel_helpers import in_child

from fastkv.kernel.limits import OpenFiles, raise_open_files

NOFILE = resource.RLIMIT_NOFILE


def limit(soft: int, hard: int) -> None:
    """Set the limits of a forked process."""
    resource.setrlimit(NOFILE, (soft, hard))


class Privileged:
    """Stands in for a kernel that raises the hard limit as far as its fs.nr_open.

    Attributes:
        limits: soft and hard.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, most: int) -> None:
        self.limits = (soft, hard)
        self._most = most
        monkeypatch.setattr(resource, "getrlimit", lambda _: self.limits)
        monkeypatch.setattr(resource, "setrlimit", self._set)

    def _set(self, _: int, limits: tuple[int, int]) -> None:
        if limits[0] > limits[1]:
            raise ValueError("current limit exceeds maximum limit")
        if limits[1] > self._most:
            raise ValueError("not allowed to raise maximum limit")
        self.limits = limits


@pytest.mark.parametrize(
    ("wanted", "reached"), [(64, 256), (256, 256), (300, 300), (1024, 1024), (1 << 30, 1024)]
)
def test_the_soft_limit_is_raised_as_far_as_the_hard_one(wanted: int, reached: int) -> None:
    def check() -> None:
        limit(256, 1024)
        # Whether the hard limit can be raised is the machine's; not above fs.nr_open.
        files = raise_open_files(wanted)
        assert resource.getrlimit(NOFILE) == (files.soft, files.hard) == (reached, 1024)
        assert (files.reachable, files.wanted) == (1024, wanted)

    in_child(check)


@pytest.mark.parametrize("wanted", [64, 1024, 1 << 30])
def test_looking_changes_nothing(wanted: int) -> None:
    def check() -> None:
        limit(256, 1024)
        assert OpenFiles.look(wanted) == OpenFiles(256, 1024, 1024, wanted)
        assert resource.getrlimit(NOFILE) == (256, 1024)

    in_child(check)


def test_with_privileges_the_hard_limit_is_raised_too(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Privileged(monkeypatch, 256, 1024, most=8192)
    assert OpenFiles.look(4096) == OpenFiles(256, 1024, 4096, 4096)
    assert machine.limits == (256, 1024)
    assert raise_open_files(4096) == OpenFiles(4096, 4096, 4096, 4096)
    assert machine.limits == (4096, 4096)


def test_past_what_the_kernel_allows_it_goes_as_far_as_the_hard_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = Privileged(monkeypatch, 256, 1024, most=8192)
    assert OpenFiles.look(10_000) == OpenFiles(256, 1024, 1024, 10_000)
    assert raise_open_files(10_000) == OpenFiles(1024, 1024, 1024, 10_000)
    assert machine.limits == (1024, 1024)


def test_a_higher_limit_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Privileged(monkeypatch, 5000, 6000, most=8192)
    assert raise_open_files(100) == OpenFiles(5000, 6000, 6000, 100)
    assert machine.limits == (5000, 6000)
