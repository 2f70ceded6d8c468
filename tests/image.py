"""The image, built and run without Docker: buildah builds it, and namespaces stand in for its engine.

The base image comes from a registry, on which the tests should not depend. Here a tree stands in for it that
has the same files at the same places: this machine's Python below ``/usr/local``, pip, a shell, and no byte
code. What pip installs is fetched beforehand, in the same versions. The C compiler is this machine's: the
build sees it, the image does not have it.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pip
import psutil
from server import ROOT, wait_until

BUILD_SECONDS = 300
_RUN_SECONDS = 60
_TAG = "fastkv-test"
# Libraries that a wheel may use without bringing them (PEP 600).
_ALWAYS_THERE = ("dl", "gcc_s", "m", "pthread", "resolv", "rt", "stdc++", "util")
# Where this machine has its C compiler.
_COMPILER = ("/usr/bin", "/usr/include", "/usr/lib")
_LEFT_OUT = (
    "__pycache__",
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "config-*",
)


def missing() -> str:
    """Say what keeps an image from being built here; "" for nothing."""
    if os.geteuid() != 0:
        return "only root can build an image and run it"
    for tool in ("buildah", "unshare", "nsenter", "chroot", "ldd"):
        if shutil.which(tool) is None:
            return f"there is no {tool} here"
    if subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], check=False).returncode:
        return "no namespace can be made here"
    return ""


def run(*command: str | Path, **options: Any) -> str:
    """Run a command that has to succeed; what it wrote to stdout."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False, cwd=ROOT, **options
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return str(done.stdout)


# -- building ----------------------------------------------------------------------------------------------


def _copy_libraries(root: Path, *programs: Path) -> None:
    """Copy what the dynamic linker would load for programs and modules, and what wheels take for granted."""
    found = {Path(path) for program in programs for path in re.findall(r"(/\S+) \(0x", run("ldd", program))}
    system = next(path.parent for path in found if path.name.startswith("libc.so"))
    found.update(path for name in _ALWAYS_THERE for path in system.glob(f"lib{name}.so.*"))
    for path in found:
        target = root / str(path)[1:]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def make_base(root: Path) -> None:
    """Make the tree that stands in for the base image.

    Args:
        root: an empty directory.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for name in ("bin", "dev", "etc", "proc", "sys", "usr/local/bin", "opt", "run"):
        (root / name).mkdir(parents=True)
    (root / "tmp").mkdir(mode=0o1777)
    program = Path(sys.executable).resolve()
    shutil.copy(program, root / "usr/local/bin" / version)
    for name in ("python", "python3"):
        (root / "usr/local/bin" / name).symlink_to(version)
    library = root / "usr/local/lib" / version
    shutil.copytree(
        sysconfig.get_path("stdlib"), library, ignore=shutil.ignore_patterns(*_LEFT_OUT), symlinks=False
    )
    # Beside the standard library: distributions differ in where they look for what is installed.
    shutil.copytree(Path(pip.__file__).parent, library / "pip", ignore=shutil.ignore_patterns("__pycache__"))
    script = root / "usr/local/bin/pip"
    script.write_text(
        "#!/usr/local/bin/python\nfrom pip._internal.cli.main import main\nraise SystemExit(main())\n"
    )
    script.chmod(0o755)
    headers = Path(sysconfig.get_config_var("INCLUDEPY"))
    shutil.copytree(headers, root / str(headers)[1:])
    shell = Path("/bin/sh").resolve()
    shutil.copy(shell, root / "bin/sh")
    _copy_libraries(root, program, shell, *library.glob("lib-dynload/*.so"))


def fetch_wheels(directory: Path) -> None:
    """Fetch what the build installs, from wherever pip is told to look on this machine.

    Args:
        directory: where to.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    lock = ROOT / "requirements-dev.lock"
    run(
        sys.executable, "-m", "pip", "download", "--quiet", "--constraint", lock, "--dest", directory, *wanted
    )


@dataclass(frozen=True, slots=True)
class Image:
    """An image that was built.

    Attributes:
        root: its file system; nothing in it is to be changed.
        config: what the Dockerfile says of its use, in the format of ``docker inspect``.
    """

    root: Path
    config: dict[str, Any]

    @property
    def environment(self) -> dict[str, str]:
        """Its variables."""
        return dict(variable.split("=", 1) for variable in self.config["Env"])

    @property
    def user(self) -> tuple[int, int]:
        """Its user and group, by number."""
        user, group = map(int, self.config["User"].split(":"))
        return user, group


class Builder:
    """Builds images from the Dockerfile.

    Attributes:
        work: a directory for all that comes about, several hundred MB.
    """

    def __init__(self, work: Path) -> None:
        """Take a directory.

        Args:
            work: an empty one.
        """
        self.work = work
        policy = work / "policy.json"
        policy.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
        self._policy = ("--signature-policy", policy)

    def buildah(self, *arguments: str | Path) -> str:
        """Run buildah with a storage of our own; what it wrote to stdout."""
        storage = ("--root", self.work / "storage", "--runroot", self.work / "run", "--storage-driver", "vfs")
        return run("buildah", *storage, *arguments).strip()

    def import_base(self, *names: str) -> None:
        """Make the base image, which stands in for each one that the Dockerfile starts from.

        Args:
            names: their names there.
        """
        make_base(self.work / "base")
        container = self.buildah("from", *self._policy, "scratch")
        self.buildah("copy", "--quiet", container, self.work / "base", "/")
        self.buildah(
            "config", "--env", "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", container
        )
        for name in names:
            self.buildah("commit", "--quiet", *self._policy, container, f"docker.io/library/{name}")
        self.buildah("rm", container)

    def build(self) -> Image:
        """Run the Dockerfile.

        Returns:
            The image.
        """
        wheels = self.work / "wheels"
        fetch_wheels(wheels)
        pip_conf = self.work / "pip.conf"
        pip_conf.write_text("[global]\nno-index = true\nfind-links = /wheels\n")
        mounts = [f"{wheels}:/wheels:ro", f"{pip_conf}:/etc/pip.conf:ro"]
        mounts += [f"{place}:{place}:ro" for place in _COMPILER]
        volumes = [word for mount in mounts for word in ("--volume", mount)]
        options = ("--isolation", "chroot", "--pull=never", "--format", "docker", *volumes)
        self.buildah("bud", *self._policy, *options, "--tag", _TAG, ROOT)
        container = self.buildah("from", *self._policy, "--pull-never", _TAG)
        config = json.loads(self.buildah("inspect", "--type", "image", _TAG))["Docker"]["config"]
        return Image(Path(self.buildah("mount", container)), config)


# -- running -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Container:
    """A container that runs.

    Attributes:
        process: what waits for it, and ends with its exit code.
        pid: its first process, seen from outside.
    """

    image: Image
    process: subprocess.Popen[bytes]
    pid: int
    environment: dict[str, str]

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as ``docker exec`` does."""
        user, group = self.image.user
        inside = ("nsenter", "--target", str(self.pid), "--all", "--root", "--wd=/")
        return subprocess.run(
            [*inside, "--setgid", str(group), "--setuid", str(user), *command],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=_RUN_SECONDS,
            check=False,
        )

    def stop(self) -> int:
        """Stop it as ``docker stop`` does; its exit code."""
        os.kill(self.pid, getattr(signal, self.image.config["StopSignal"]))
        return self.process.wait(_RUN_SECONDS)


@contextmanager
def container(image: Image, log: IO[bytes], **variables: str) -> Iterator[Container]:
    """Run an image as ``docker run --read-only`` does: its command as process 1, its user, its variables.

    Args:
        image: the image.
        log: takes what it writes.
        variables: what ``--env`` adds.

    Yields:
        The container, started.
    """
    user, group = image.user
    assert min(user, group) > 0, "root would change the kernel settings of this machine"
    environment = image.environment | variables
    isolate = (
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--root",
        str(image.root),
        "--mount-proc",
    )
    command = (*isolate, "--setgid", str(group), "--setuid", str(user))
    served = (*image.config["Entrypoint"], *image.config["Cmd"])
    # Nothing can be written, in a mount namespace of its own.
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    process = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script, str(image.root), *command, *served],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )
    try:
        first: list[int] = []

        def has_begun() -> bool:
            first[:] = _processes_1(process)
            return bool(first) or process.poll() is not None

        wait_until(has_begun, "a process 1")
        assert first, "it ended at once"
        yield Container(image, process, first[0], environment)
    finally:
        # It changed its user, and so the kernel has forgotten that it is to go with its parent.
        for pid in _processes_1(process):
            os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait(_RUN_SECONDS)


def _processes_1(process: subprocess.Popen[bytes]) -> list[int]:
    """The child in another namespace of processes, if there is one already; ``mount`` is a child, too."""
    found = []
    with suppress(psutil.NoSuchProcess, FileNotFoundError):
        for child in psutil.Process(process.pid).children():
            own = Path("/proc/self/ns/pid").readlink()
            if Path(f"/proc/{child.pid}/ns/pid").readlink() != own:
                found.append(child.pid)
    return found
