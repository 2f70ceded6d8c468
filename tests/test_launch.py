"""The order of a start: what is wrong is found before a change of the machine; a late failure undoes it."""

import fcntl
import json
import re
import resource
import socket
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from certificates import make_pair
from kernel_helpers import memory_path, namespaced
from server import SERVE, run_to_end, running

from fastkv.kernel.profile import load
from fastkv.kernel.sysctl import Tree

tmp_path = memory_path


def kernel_settings() -> dict[str, str | None]:
    """The value of every setting that a profile knows."""
    return {setting.name: Tree().read(setting.path) for setting in load("recommended").settings}


def fails(
    sentence: str, state_dir: Path, program: tuple[str, ...] = (*SERVE, "serve"), **settings: object
) -> str:
    """Start a server that fails; its log. The kernel is as it was, and no change is on record."""
    before = kernel_settings()
    code, out, err = run_to_end(program, **{"tune": True, "state_dir": state_dir, **settings})
    assert (code, out) == (1, ""), err
    assert re.search(sentence, err.splitlines()[-1]), err
    assert kernel_settings() == before
    assert sorted(path.name for path in state_dir.glob("*")) in ([], ["tuning.lock"])
    return err


def has_not_tuned(log: str) -> bool:
    return "Kernel" not in log


def has_changed_nothing(log: str) -> bool:
    return has_not_tuned(log) and "Each process" not in log


# -- found before --------------------------------------------------------------------------------------------


@contextmanager
def taken_port() -> Iterator[int]:
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


@namespaced
def test_a_host_that_cannot_be_resolved(tmp_path: Path) -> None:
    log = fails("--host: 'notahost.invalid' ", tmp_path / "state", host="notahost.invalid")
    assert has_changed_nothing(log)


@namespaced
def test_a_second_host_that_is_another_machines(tmp_path: Path) -> None:
    log = fails("--host: '192.0.2.1' is no address", tmp_path / "state", host=("127.0.0.1", "192.0.2.1"))
    assert has_changed_nothing(log)


@namespaced
def test_a_port_in_use(tmp_path: Path) -> None:
    with taken_port() as port:
        assert has_changed_nothing(fails(f"--port: {port} on ", tmp_path / "state", port=port))


@namespaced
def test_a_unix_path_that_cannot_be(tmp_path: Path) -> None:
    assert has_changed_nothing(fails("--unix: ", tmp_path / "state", unix=tmp_path / "missing" / "socket"))


@namespaced
def test_a_bad_certificate(tmp_path: Path) -> None:
    pair = make_pair(tmp_path)
    pair.cert.write_text("none")
    log = fails("--tls-cert: ", tmp_path / "state", **pair.settings)
    assert has_changed_nothing(log)


@namespaced
def test_a_missing_token_file(tmp_path: Path) -> None:
    log = fails("--token-file: ", tmp_path / "state", token_file=tmp_path / "missing")
    assert has_changed_nothing(log)


@namespaced
def test_an_access_log_that_cannot_be_written(tmp_path: Path) -> None:
    assert has_changed_nothing(fails("--access-log: ", tmp_path / "state", access_log=tmp_path))


@namespaced
def test_more_memory_than_there_is(tmp_path: Path) -> None:
    assert has_changed_nothing(fails("--memory: ", tmp_path / "state", memory="127gb"))


@namespaced
def test_a_data_directory_in_use(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with (data / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        log = fails("--data-dir: .* is in use", tmp_path / "state", data_dir=data)
    assert has_changed_nothing(log)


@namespaced
def test_a_data_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    assert has_changed_nothing(fails("--data-dir: ", tmp_path / "state", data_dir=tmp_path / "data"))


# -- failures after the change -------------------------------------------------------------------------------


def patched(code: str) -> tuple[str, ...]:
    """The command, with some code of ours run before it."""
    return (sys.executable, "-c", f"{code}\nfrom fastkv.start import main\nmain()", "serve")


PORT_TAKEN_BETWEEN = """
import socket
from fastkv import launch
prepare, other = launch.prepare, socket.socket()

def late(settings):
    prepared = prepare(settings)
    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    other.bind(("127.0.0.1", settings.port))
    other.listen()
    return prepared

launch.prepare = late
"""

WORKER_FAILS = """
from fastkv import worker

def fail(*args):
    import os
    os._exit(3)

worker.serve = fail
"""


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_put_back(log: str) -> bool:
    """Whether each change is followed by its undoing, in the log."""
    changed = re.findall(r" INFO Kernel setting (\S+): (.*) → (.*)\n", log)
    undone = re.findall(r" INFO The start failed\. Kernel setting (\S+): (.*) → (.*)\n", log)
    return len(changed) > 2 and undone == [(name, after, before) for name, before, after in reversed(changed)]


@namespaced
def test_a_port_that_is_taken_between(tmp_path: Path) -> None:
    port = free_port()
    log = fails(f"--port: {port} ", tmp_path / "state", patched(PORT_TAKEN_BETWEEN), port=port)
    assert is_put_back(log)


@namespaced
def test_too_few_open_files_for_the_sockets(tmp_path: Path) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    # The workers' board costs 41 files, their sockets 20 more.
    assert is_put_back(fails("Too many open files", tmp_path / "state", workers=20, open_files=64))
    assert has_not_tuned(fails("--workers: 100 are too many", tmp_path / "state", workers=100, open_files=64))


@namespaced
def test_a_worker_that_does_not_start(tmp_path: Path) -> None:
    log = fails("A worker did not start", tmp_path / "state", patched(WORKER_FAILS))
    assert is_put_back(log)


@namespaced
def test_what_an_earlier_server_changed_stays_changed(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running(tune=True, state_dir=state):
        between, recorded = kernel_settings(), (state / _record(state)).read_text()
        code, _, err = run_to_end(patched(WORKER_FAILS), tune=True, state_dir=state, profile="ultrafast")
        assert code == 1
        assert "The start failed. Kernel setting " in err
        assert kernel_settings() == between
        assert _entry(recorded) == {"original": "4096", "ours": ["16384"]}
        assert _entry((state / _record(state)).read_text())["original"] == "4096"


def _record(state: Path) -> str:
    (name,) = (path.name for path in state.glob("tuning-*.json"))
    return name


def _entry(text: str) -> dict[str, object]:
    (space,) = (entries for entries in json.loads(text)["spaces"].values() if "net.core.somaxconn" in entries)
    found: dict[str, object] = space["net.core.somaxconn"]
    return found


def test_a_failed_start_leaves_the_data_as_after_a_clean_stop(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(data_dir=data) as server:
        assert server.request("PUT", "/put", '{"key":"a","value":"1"}').status == 200
        assert server.stop() == 0
    code, _, err = run_to_end(patched(WORKER_FAILS), data_dir=data)
    assert code == 1, err
    with running(data_dir=data) as server:
        assert "a warm start with 1 entries. The last stop was a clean one." in server.log()


def test_a_failed_start_leaves_no_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    code, _, err = run_to_end(patched(WORKER_FAILS), unix=path)
    assert code == 1, err
    assert not path.exists()
