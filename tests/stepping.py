"""Steps of a process through compiled code: deaths and disturbances between any two machine instructions.

A forked process runs an operation under ptrace. What counts are the instructions of one call from Python into
an extension module, with all that it calls, from its first one to its return; the interpreter around it runs
freely. Nothing is built into what is tested: it is the module that ships.

Steps are exact and in program order. What a weaker memory order, a store that a compiler has moved, or two
processors at once may add to that, they cannot show.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import pickle
import platform
import shutil
import signal
import subprocess
from collections import Counter
from enum import IntEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import pytest
from store_helpers import end_of, left, mark_dead, snapshot, start

from fastkv import core

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from mmap import mmap
    from types import ModuleType, TracebackType
    from typing import Self

    from fastkv.store import Store

_SOURCE: Final = Path(__file__).with_name("stepping.c")

# Requests of ptrace(2).
_TRACEME: Final = 0
_CONT: Final = 7
_SETOPTIONS: Final = 0x4200
_EXITKILL: Final = 1 << 20

# Between the fork and the call that is stepped through, or between two calls, there are some thousands.
_MOST_BEFORE: Final = 1_000_000
# Every sixteenth death is brought about by a real kill.
_REAL: Final = 16


class Stop(IntEnum):
    """Why a process stands still."""

    STEPPED = 0
    """It has made as many steps as it was to."""
    CHANGED = 1
    """The last step has changed what is watched."""
    LEFT = 2
    """The last step was the return to Python."""
    ENDED = 3


class _Watched(ctypes.Structure):
    _fields_ = (("now", ctypes.c_void_p), ("before", ctypes.c_void_p), ("size", ctypes.c_size_t))


_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def _be_traced() -> None:
    """Stand still until the parent, which traces this process from now on, lets it go on."""
    if _libc.ptrace(_TRACEME, 0, None, None):
        os._exit(1)
    os.kill(os.getpid(), signal.SIGSTOP)


def missing() -> str | None:
    """Why nothing can be stepped here, as a sentence; None if it can."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return f"Steps are for Linux on x86-64, not for {platform.system()} on {platform.machine()}."
    if shutil.which("gcc") is None:
        return "Steps need gcc, and there is none."
    pid = start(_be_traced)
    if not os.WIFSTOPPED(os.waitpid(pid, 0)[1]):
        return "Steps need ptrace(2), which is not permitted here."
    os.kill(pid, signal.SIGKILL)
    end_of(pid)
    return None


def require() -> None:
    """Skip a module's tests where nothing can be stepped; in CI that is a failure."""
    _require(missing())


def require_core() -> None:
    """Skip a module's tests where there is no compiled core, either; in CI only if it is not to be used."""
    _require(missing() or core.REASON, fails=core.PURE_VARIABLE not in core.REASON)


def _require(reason: str | None, *, fails: bool = True) -> None:
    if reason and fails and os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    if reason:
        pytest.skip(reason, allow_module_level=True)


@functools.cache
def _stepping() -> ctypes.CDLL:
    """The steps themselves, which Python would make ten times slower."""
    with TemporaryDirectory() as directory:
        built = Path(directory, "stepping.so")
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", built, _SOURCE], check=True)
        library = ctypes.CDLL(str(built))
    u64, at_u64 = ctypes.c_uint64, ctypes.POINTER(ctypes.c_uint64)
    pid, at_int = ctypes.c_int, ctypes.POINTER(ctypes.c_int)
    library.step_into.argtypes = [pid, u64, u64, ctypes.c_long, at_u64, at_int]
    library.step_into.restype = u64
    library.run_to.argtypes = [pid, u64, u64, at_u64, at_int]
    library.run_to.restype = u64
    library.step_on.argtypes = [
        *(pid, u64, ctypes.c_long, ctypes.POINTER(_Watched), ctypes.c_int),
        *(ctypes.POINTER(ctypes.c_long), at_u64, at_int),
    ]
    return library


def _code(of: Callable[[str], bool]) -> list[tuple[int, int]]:
    """The addresses, ends excluded, at which the instructions of some files lie in this process."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, rights, *rest = line.split(maxsplit=5)
        if "x" in rights and of(rest[-1]):
            low, high = addresses.split("-")
            found.append((int(low, 16), int(high, 16)))
    return found


def address_of(function: str) -> int:
    """Where a function of the C library begins."""
    address = ctypes.cast(getattr(_libc, function), ctypes.c_void_p).value
    assert address
    return address


def in_libc(address: int) -> bool:
    """Tell whether an instruction is one of the C library's."""
    return any(low <= address < high for low, high in _code(lambda file: "/libc.so" in file))


def shared(store: Store) -> tuple[mmap, mmap]:
    """What processes that use a store share: its arena and its locks."""
    return store._arena.mem, store._lock_table._mem


class Stepped:
    """A process that is stepped through a call.

    Attributes:
        pid: the process.
        steps: how many instructions of the call it has executed.
        at: the address of the next one.
        entry: that of the first one.
        stop: why it stands still.
    """

    def __init__(
        self,
        operation: Callable[[], object],
        module: ModuleType,
        watched: Sequence[mmap] = (),
        entry: int = 0,
        before: int = 0,
    ) -> None:
        """Fork a process, and let it run until it is about to enter the module.

        Args:
            operation: what the process does.
            module: the extension module whose call counts; the first one, if the operation has several.
            watched: shared memory whose changes are looked for.
            entry: that of an earlier process that did the same, which saves its search.
            before: how many calls with that entry go before the one that counts.
        """
        self._views = [ctypes.c_char.from_buffer(mem) for mem in watched]
        self._shadows = [ctypes.create_string_buffer(len(mem)) for mem in watched]
        sizes = [len(mem) for mem in watched]
        self._watched = (_Watched * len(watched))(
            *(
                _Watched(ctypes.addressof(view), ctypes.addressof(shadow), size)
                for view, shadow, size in zip(self._views, self._shadows, sizes, strict=True)
            )
        )
        self._frame = ctypes.c_uint64()
        self._status = ctypes.c_int()
        self.steps = 0
        self.stop = Stop.STEPPED

        def work() -> None:
            gc.disable()  # a collection calls into the module as well, and comes when the parent's counts say
            _be_traced()
            operation()

        self.pid = start(work)
        os.waitpid(self.pid, 0)
        _libc.ptrace(_SETOPTIONS, self.pid, None, _EXITKILL)
        self._range = _code(lambda file: file == module.__file__)
        if entry:
            for _ in range(before + 1):
                self._frame.value = 0
                self.run_to(entry)
        else:
            assert self.enter(), f"it did not enter the module, and stopped with {self._status.value:#x}"
        self.entry = self.at
        self.look()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.pid:
            self.kill()
        self._views.clear()

    def enter(self) -> bool:
        """Step until the next call into the module begins; False if the process ends before."""
        ((low, high),) = self._range
        self.at = _stepping().step_into(self.pid, low, high, _MOST_BEFORE, self._frame, self._status)
        return bool(self.at)

    def look(self) -> None:
        """Take what is watched as it is now; only what is changed after this is a change."""
        for watched in self._watched:
            ctypes.memmove(watched.before, watched.now, watched.size)

    def go(self, most: int = 1, *, until_changed: bool = False) -> Stop:
        """Go on step by step.

        Args:
            most: how many instructions.
            until_changed: whether to stop behind one that changes what is watched.

        Returns:
            Why it stands still.
        """
        steps, at = ctypes.c_long(), ctypes.c_uint64()
        self.stop = Stop(
            _stepping().step_on(
                *(self.pid, self._frame, most, self._watched, len(self._watched) if until_changed else 0),
                *(steps, at, self._status),
            )
        )
        self.steps += steps.value
        self.at = at.value
        assert self.stop is not Stop.ENDED, f"it stopped with {self._status.value:#x}"
        return self.stop

    def run_to(self, address: int) -> None:
        """Let it run until it is about to execute an instruction of the call; no steps are counted.

        Args:
            address: where that is; if it is there already, the next time.
        """
        stack = ctypes.c_uint64()
        self.at = _stepping().run_to(self.pid, address, address, stack, self._status)
        assert self.at == address, f"it stopped with {self._status.value:#x}"
        if not self._frame.value:
            self._frame = stack

    def changes(self) -> Iterator[int]:
        """Stop behind each instruction that changes what is watched.

        A change of that in the meantime has to be put back.

        Yields:
            How many instructions the process has executed.
        """
        while self.go(1 << 30, until_changed=True) is Stop.CHANGED:
            yield self.steps

    def let_go(self) -> None:
        """Let the process run; it cannot be stepped any more."""
        _libc.ptrace(_CONT, self.pid, None, None)

    def finish(self) -> None:
        """Let the process run to its end, which has to be a good one."""
        self.let_go()  # if it runs already, this is an error that changes nothing
        pid, self.pid = self.pid, 0
        assert end_of(pid) == 0

    def kill(self) -> None:
        """Kill the process where it stands."""
        os.kill(self.pid, signal.SIGKILL)
        pid, self.pid = self.pid, 0
        assert end_of(pid) == -signal.SIGKILL


class Reader(Stepped):
    """A process that reads again and again, each time as if for the first time.

    A step takes 40 µs, so the process runs to where it is to stand still, by breakpoints.

    Attributes:
        path: the instructions of an undisturbed read, without those of the interpreter, which sees nothing of
            what is shared: each as its address, and how often it was executed until then.
    """

    def __init__(self, read: Callable[[], object], module: ModuleType) -> None:
        """Fork the process.

        Args:
            read: what it does; it returns something that can be pickled.
            module: as for ``Stepped``.
        """
        self._results, ours = os.pipe()

        def read_on() -> None:
            while True:
                found = pickle.dumps(read())
                os.write(ours, len(found).to_bytes(4, "little") + found)

        super().__init__(read_on, module)
        os.close(ours)
        os.set_blocking(self._results, False)
        interpreter = _code(lambda file: "python" in Path(file).name and ".cpython" not in file)
        executed: Counter[int] = Counter()
        self.path: list[tuple[int, int]] = []
        while self.stop is not Stop.LEFT:
            if not any(low <= self.at < high for low, high in interpreter):
                self.path.append((self.at, executed[self.at]))
            executed[self.at] += 1
            self.go()
        self.result()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[arg-type]
        os.close(self._results)

    def stand_before(self, number: int) -> bool:
        """Let the process, which is at the beginning of a read, run to an instruction of it.

        Args:
            number: which one of the path.

        Returns:
            False if this read does not come there: then it is at the beginning of another one.
        """
        at, executed = self.path[number]
        stack = ctypes.c_uint64()
        for _ in range(executed + (at != self.entry)):
            came_to = _stepping().run_to(self.pid, at, self.entry, stack, self._status)
            assert came_to, f"it stopped with {self._status.value:#x}"
            if came_to != at:
                self._received()
                return False
        return True

    def result(self) -> Any:
        """Let it read to the end, and then stand still at the beginning of another read.

        Returns:
            What it has read.
        """
        came_to = _stepping().run_to(self.pid, self.entry, self.entry, self._frame, self._status)
        assert came_to, f"it stopped with {self._status.value:#x}"
        return self._received()

    def _received(self) -> Any:
        size = int.from_bytes(os.read(self._results, 4), "little")
        return pickle.loads(os.read(self._results, size))


def calls(operation: Callable[[], object], module: ModuleType) -> list[tuple[int, int]]:
    """Find the calls of an operation into a module; the operation is done.

    Args:
        operation: what a process does.
        module: as for ``Stepped``.

    Returns:
        The entry of each, and how many calls with that entry go before it.
    """
    found: list[tuple[int, int]] = []
    seen: Counter[int] = Counter()
    with Stepped(operation, module) as process:
        while True:
            found.append((process.at, seen[process.at]))
            seen[process.at] += 1
            assert process.go(1 << 30) is Stop.LEFT
            if not process.enter():
                assert os.WIFEXITED(process._status.value), f"it stopped with {process._status.value:#x}"
                process.pid = 0
                return found


def deaths(
    store: Store, operation: Callable[[], object], module: ModuleType, call: tuple[int, int] = (0, 0)
) -> Iterator[int]:
    """Bring a store into each state in which the death of a process within a call can leave it.

    The process stands still behind each instruction that has changed the arena or a lock, and its locks are
    marked as the kernel would mark them. When it goes on it has all again as it was. Before that, each
    sixteenth death from the first one on is brought about by a real kill, and has to leave the same.

    Args:
        store: the store; it may be changed in any way after each death.
        operation: what the process does.
        module: as for ``Stepped``.
        call: which call, as of ``calls``; the first one if its entry is 0.

    Yields:
        How many instructions of the call the process has executed. In the end the operation is done.
    """
    begin = snapshot(store)
    real = {}
    entry, before = call
    for change in range(0, 1 << 30, _REAL):
        with Stepped(operation, module, shared(store), entry, before) as process:
            entry = process.entry
            stops = sum(1 for _ in zip(range(change + 1), process.changes(), strict=False))
            if stops <= change:
                break
            process.kill()
            real[change] = left(store)
        begin()
    begin()
    with Stepped(operation, module, shared(store), entry, before) as process:
        for change, steps in enumerate(process.changes()):
            go_on = snapshot(store)
            mark_dead(store, process.pid)
            assert real.pop(change, None) in (None, left(store)), f"step {steps}"
            yield steps
            go_on()
        process.finish()
    assert not real
