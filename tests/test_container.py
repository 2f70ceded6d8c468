"""The image: what its Dockerfile and the compose file say, and what a container of it does."""

import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

import image
import psutil
import pytest
import yaml
from image import Builder, Container, Image, container
from server import ROOT, has_ipv6, wait_until

from fastkv.settings import OPTIONS, Settings

DEFAULTS = Settings()


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, each with what follows it, on one line."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def of(wanted: str) -> list[str]:
    """What follows each instruction of a name."""
    return [rest for name, rest in instructions() if name == wanted]


# What the modules that are loaded would be read from.
_CACHED = "print(*filter(None, (getattr(m, '__cached__', None) for m in sys.modules.values())), sep='\\n')"
# A process that its parent leaves behind.
_ORPHAN = """
import os, time
if os.fork():
    os._exit(0)
os.closerange(0, 3)
time.sleep(0.2)
"""

BASES = [rest.split()[0] for rest in of("FROM")]


# -- the files ---------------------------------------------------------------------------------------------


def test_the_linter_has_nothing_to_say() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("there is no hadolint here")
    done = subprocess.run([hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_both_stages_start_from_the_same_version() -> None:
    """The one with a compiler, and the slim one."""
    build, run = BASES
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-\w+", build)
    assert run.replace("-slim", "") == build != run


@pytest.mark.parametrize("name", ["ENTRYPOINT", "CMD"])
def test_no_shell_stands_between_signals_and_the_server(name: str) -> None:
    assert all(isinstance(word, str) for word in json.loads(of(name)[0]))


def test_health_is_asked_without_a_shell() -> None:
    assert json.loads(of("HEALTHCHECK")[0].partition("CMD ")[2]) == ["fastkv", "health"]


def test_nobody_runs_it_as_root() -> None:
    user, group = of("USER")[-1].split(":")
    assert int(user) > 0
    assert int(group) > 0


def test_its_variables_are_settings() -> None:
    variables = dict(word.split("=", 1) for rest in of("ENV") for word in shlex.split(rest))
    ours = {name: value for name, value in variables.items() if name.startswith("FASTKV_")}
    assert ours.keys() <= {option.variable for option in OPTIONS}
    settings = Settings.load({}, ours)
    assert settings.host == ("::",)
    assert of("EXPOSE") == [str(settings.port)] == [str(DEFAULTS.port)]


def in_context(path: str) -> bool:
    """Whether .dockerignore lets a file through; the last line that fits decides."""
    inside = False
    parts = PurePosixPath(path).parts
    starts = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line.startswith("**/"):
            fits = any(fnmatch(part, line[3:]) for part in parts)
        else:
            pattern = line.removeprefix("!")
            # Not fnmatch alone: its * goes on past a slash.
            fits = any(start.count("/") == pattern.count("/") and fnmatch(start, pattern) for start in starts)
        if fits and not line.startswith("#"):
            inside = line.startswith("!")
    return inside


def test_the_context_is_what_the_build_copies() -> None:
    sources = {word for rest in of("COPY") if "--from" not in rest for word in rest.split()[:-1]}
    there = [
        str(path.relative_to(ROOT)) for name in sources for path in (ROOT / name, *(ROOT / name).rglob("*"))
    ]
    needed = {
        path
        for path in there
        if (ROOT / path).is_file() and "__pycache__" not in path and not path.endswith(".so")
    }
    offered = {
        path
        for path in (str(found.relative_to(ROOT)) for found in ROOT.rglob("*") if found.is_file())
        if in_context(path)
    }
    assert offered == needed
    assert {"fastkv/cli.py", "fastkv/core/native.h", "conf/fastkv.toml", "pyproject.toml"} <= needed
    assert not any(
        map(in_context, (".git/config", "tests/server.py", "docs/design.md", "fastkv/__pycache__/a.pyc"))
    )


def compose() -> dict[str, Any]:
    """The service of the compose file."""
    document = yaml.safe_load((ROOT / "conf/compose.yaml").read_text())
    service = document["services"]["ultrafastkv"]
    assert isinstance(service, dict)
    return service


def test_compose_confines_the_server() -> None:
    service = compose()
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["ulimits"]["nofile"] == {"soft": 1048576, "hard": 1048576}
    assert [port.rpartition(":")[2] for port in service["ports"]] == [str(DEFAULTS.port)]
    assert (ROOT / "conf" / service["build"]).resolve() == ROOT


def test_compose_waits_for_the_drain() -> None:
    assert float(compose()["stop_grace_period"].removesuffix("s")) > 2 * DEFAULTS.drain_seconds


def test_the_examples_in_compose_are_settings() -> None:
    text = (ROOT / "conf/compose.yaml").read_text()
    uncommented = re.sub(r"^( *)#(?! )", r"\1", text.replace("    #  ", "      "), flags=re.MULTILINE)
    service = yaml.safe_load(uncommented)["services"]["ultrafastkv"]
    assert {"cpus", "mem_limit", "environment"} <= service.keys()
    assert service["environment"].keys() <= {option.variable for option in OPTIONS}


# -- a container -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    if why := image.missing():
        pytest.skip(why)
    work = tmp_path_factory.mktemp("image")
    builder = Builder(work)
    builder.import_base(*BASES)
    yield builder.build()
    shutil.rmtree(work)


@pytest.fixture(scope="module")
def started(built: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Container, str, Path]]:
    """A container that serves, where, and what it has written."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = tmp_path_factory.mktemp("container") / "log"
    with (
        path.open("wb") as log,
        container(built, log, FASTKV_PORT=str(port), FASTKV_MEMORY="64mb", FASTKV_WORKERS="2") as one,
    ):
        try:
            wait_until(
                lambda: one.process.poll() is not None or "fastkv serves" in path.read_text(), "a server"
            )
            assert one.process.poll() is None
            yield one, f"http://127.0.0.1:{port}", path
        except BaseException as error:
            error.add_note(path.read_text())
            raise


def test_it_brings_what_it_imports_as_byte_code(built: Image, tmp_path: Path) -> None:
    """Compiling at every start would take longer than starting."""
    modules = "fastkv.cli, fastkv.health, fastkv.kernel.applying, fastkv.launch, tomllib"
    script = f"import sys, {modules}\n{_CACHED}"
    told = image.run("chroot", built.root, "python", "-c", script, env=built.environment)
    wanted = told.split()
    assert len(wanted) > 100
    assert [path for path in wanted if not (built.root / path[1:]).is_file()] == []


def test_it_holds_neither_pip_nor_tests(built: Image) -> None:
    packages = next(built.root.glob("opt/fastkv/lib/python*/site-packages"))
    assert (packages / "fastkv/cli.py").is_file()
    assert not {"pip", "setuptools", "Cython", "tests"} & {path.name for path in packages.iterdir()}


def test_it_has_the_compiled_core(started: tuple[Container, str, Path]) -> None:
    _, url, path = started
    with urllib.request.urlopen(f"{url}/version", timeout=10) as reply:
        assert json.load(reply)["core"] == "compiled"
    assert "compiled core" in path.read_text()


def test_it_serves(started: tuple[Container, str, Path]) -> None:
    _, url, _ = started
    for request in (
        urllib.request.Request(
            f"{url}/put", b'{"key":"a","value":"1"}', {"Content-Type": "application/json"}
        ),
        urllib.request.Request(f"{url}/get?key=a"),
    ):
        with urllib.request.urlopen(request, timeout=10) as reply:
            assert reply.status == 200


def test_it_listens_on_both_families(started: tuple[Container, str, Path]) -> None:
    _, url, path = started
    if not has_ipv6():
        pytest.skip("this machine has no ::1")
    address = url.replace("127.0.0.1", "[::1]")
    with urllib.request.urlopen(f"{address}/health", timeout=10) as reply:
        assert reply.status == 200
    assert f"fastkv serves {url.replace('127.0.0.1', '[::]')} with 2 workers" in path.read_text()


def test_it_runs_as_its_user(started: tuple[Container, str, Path]) -> None:
    one, _, _ = started
    for process in (psutil.Process(one.pid), *psutil.Process(one.pid).children()):
        assert {*process.uids(), *process.gids()} == set(one.image.user)


def test_it_is_healthy(started: tuple[Container, str, Path]) -> None:
    one, _, _ = started
    kind, *command = one.image.config["Healthcheck"]["Test"]
    assert kind == "CMD"
    done = one.execute(*command)
    assert done.returncode == 0, done.stderr


def test_health_finds_no_server(built: Image) -> None:
    user, group = built.user
    done = subprocess.run(
        ["chroot", f"--userspec={user}:{group}", built.root, *built.config["Healthcheck"]["Test"][1:]],
        env=built.environment | {"FASTKV_PORT": "1"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1, done.stderr


def test_process_1_takes_care_of_orphans(started: tuple[Container, str, Path]) -> None:
    one, _, _ = started
    before = {child.pid for child in psutil.Process(one.pid).children()}
    assert one.execute("python", "-c", _ORPHAN).returncode == 0

    def left() -> set[int]:
        return {child.pid for child in psutil.Process(one.pid).children()} - before

    wait_until(left, "an orphan")
    wait_until(lambda: not left(), "its end is taken note of")


def test_it_stops_when_it_is_told_to(started: tuple[Container, str, Path]) -> None:
    one, _, path = started
    assert one.stop() == 0, path.read_text()
    assert "Stopped." in path.read_text()
