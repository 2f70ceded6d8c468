"""Single settings: read as the kernel writes them, written as it takes them, tried without a trace."""

import errno
import os
import socket
from pathlib import Path

import pytest
from kernel_helpers import (
    BOOT_ID,
    BOOT_ID_PATH,
    GIB,
    as_nobody,
    forked,
    in_child,
    make_files,
    make_read_only,
    namespaced,
    needs_cookies,
    needs_root,
    new_network,
)

from fastkv.kernel.sysctl import Tree, network_namespace, parse_conf, path_of

SOMAXCONN = path_of("net.core.somaxconn")
RESERVED = path_of("net.ipv4.ip_local_reserved_ports")


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"4096\n", "4096"),
        (b"4096\t131072\t33554432\n", "4096 131072 33554432"),
        (b"  1   2 \n", "1 2"),
        (b"\n", ""),
        (b"", ""),
        (b"always within_size advise [never] deny force\n", "never"),
        (b"9223372036854775807\n", "9223372036854775807"),
        (b"-1\n", "-1"),
        (b"\xff\xfe4096\n", "\ufffd\ufffd4096"),
        (b"1," * 100_000 + b"2\n", "1," * 100_000 + "2"),
    ],
)
def test_a_value_is_read_with_single_blanks(tmp_path: Path, content: bytes, value: str) -> None:
    (tmp_path / "x").write_bytes(content)
    assert Tree(tmp_path).read("x") == value


def test_what_cannot_be_read_is_absent(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    for path in ("nothing", "directory", "loop", "directory/nothing", "x" * 300):
        assert Tree(tmp_path).read(path) is None
        assert not Tree(tmp_path).is_writable(path)


def test_a_value_is_written_with_its_newline_and_nothing_of_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("a much longer value\n")
    Tree(tmp_path).write("x", "1 2 3")
    assert (tmp_path / "x").read_text() == "1 2 3\n"
    with pytest.raises(FileNotFoundError):
        Tree(tmp_path).write("y", "1")
    assert not (tmp_path / "y").exists()


def test_a_kernel_that_takes_nothing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_text("1\n")
    monkeypatch.setattr(os, "write", lambda descriptor, data: 0)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        Tree(tmp_path).write("x", "1")


def test_trying_leaves_no_trace(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("1\n")
    before = os.stat(tmp_path / "x")
    assert Tree(tmp_path).is_writable("x")
    after = os.stat(tmp_path / "x")
    assert (after.st_mtime_ns, after.st_ctime_ns, after.st_size) == (
        before.st_mtime_ns,
        before.st_ctime_ns,
        before.st_size,
    )


@namespaced
def test_a_file_that_is_mounted_read_only_is_not_writable_even_for_root() -> None:
    assert Tree().is_writable(SOMAXCONN)
    assert not Tree().is_writable(path_of("fs.file-max"))
    make_read_only("/proc/sys")
    assert not Tree().is_writable(SOMAXCONN)
    with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        Tree().write(SOMAXCONN, "1")


@namespaced
def test_another_user_may_write_nothing() -> None:
    def look() -> None:
        assert Tree().read(SOMAXCONN) == "4096"
        assert not Tree().is_writable(SOMAXCONN)
        with pytest.raises(PermissionError):
            Tree().write(SOMAXCONN, "1")

    as_nobody(look)
    assert Tree().read(SOMAXCONN) == "4096"


@needs_root
def test_a_file_that_may_not_be_read_is_absent(tmp_path: Path) -> None:
    root = Path("/") / os.fspath(tmp_path)
    (tmp_path / "x").write_text("1\n")
    (tmp_path / "x").chmod(0o600)
    descriptor = os.open(root, os.O_RDONLY)
    os.fchmod(descriptor, 0o755)
    tree = Tree(Path(f"/proc/self/fd/{descriptor}"))
    assert tree.read("x") == "1"
    as_nobody(lambda: _is_absent(tree))
    os.close(descriptor)


def _is_absent(tree: Tree) -> None:
    assert tree.read("x") is None
    assert not tree.is_writable("x")


@namespaced
def test_long_lists_of_ports_are_written_and_read_whole() -> None:
    tree = Tree()
    for count in (1, 700, 3000, 25_000):
        text = ",".join(str(10_001 + 2 * number) for number in range(count))
        tree.write(RESERVED, text)
        assert tree.read(RESERVED) == text
    tree.write(RESERVED, "")
    assert tree.read(RESERVED) == ""


@namespaced
def test_the_kernel_refuses_what_makes_no_sense() -> None:
    tree = Tree()
    for value in ("", "many", "-1", "99999999999999999999"):
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            tree.write(SOMAXCONN, value)
    assert tree.read(SOMAXCONN) == "4096"


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (BOOT_ID, BOOT_ID),
        (None, "unknown"),
        ("", "unknown"),
        ("../../etc/passwd", "unknown"),
        ("a b", "unknown"),
        ("f" * 65, "unknown"),
    ],
)
def test_a_boot_is_known_by_its_id(tmp_path: Path, content: str | None, name: str) -> None:
    tree = make_files(tmp_path)
    (tmp_path / BOOT_ID_PATH).unlink()
    if content is not None:
        (tmp_path / BOOT_ID_PATH).write_text(content + "\n")
    assert tree.boot_id() == name


def test_memory_is_the_machine_s(tmp_path: Path) -> None:
    assert make_files(tmp_path, 3 * GIB).memory_bytes() == 3 * GIB
    (tmp_path / "proc/meminfo").write_text("MemFree: 1 kB\n")
    assert Tree(tmp_path).memory_bytes() == 0
    (tmp_path / "proc/meminfo").unlink()
    assert Tree(tmp_path).memory_bytes() == 0


@needs_cookies
@namespaced
def test_a_namespace_has_a_name_of_its_own_even_when_its_inode_is_used_again() -> None:
    def look() -> None:
        new_network()
        print(network_namespace(), os.stat("/proc/self/ns/net").st_ino, flush=True, file=found)

    names: dict[str, str] = {}
    path = Path("/var/lib/found")
    for _ in range(50):  # the kernel gives a number again when it likes, mostly at once
        with path.open("w") as found:
            assert forked(look) == (0, "")
        name, inode = path.read_text().split()
        assert name.startswith("cookie-")
        assert name != network_namespace()
        assert name not in names.values()
        if inode in names:
            break
        names[inode] = name


def test_without_a_cookie_a_namespace_is_known_by_its_inode(monkeypatch: pytest.MonkeyPatch) -> None:
    assert network_namespace() == network_namespace()

    def refuse(*args: object) -> bytes:
        raise OSError(errno.ENOPROTOOPT, "Protocol not available")

    class Old(socket.socket):
        getsockopt = refuse  # type: ignore[assignment]

    monkeypatch.setattr(socket, "socket", Old)
    assert network_namespace() == f"inode-{os.stat('/proc/self/ns/net').st_ino}"
    monkeypatch.setattr(os, "stat", lambda path: refuse())
    assert network_namespace() == "unknown"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        ("# a = 1\n; b = 2\n\n   \n", {}),
        ("a.b = 1\n-c.d=2\n  e.f   =  3  \n", {"a.b": "1", "c.d": "2", "e.f": "3"}),
        ("a/b = 1", {"a.b": "1"}),
        ("a = 1\t 2   3", {"a": "1 2 3"}),
        ("a = 1\na = 2", {"a": "2"}),
        ("a = b = c", {"a": "b = c"}),
        ("a =", {"a": ""}),
    ],
)
def test_a_sysctl_file_is_read(text: str, values: dict[str, str]) -> None:
    assert parse_conf(text) == values


@pytest.mark.parametrize("line", ["a", "= 1", "- = 1", "a 1"])
def test_a_line_that_sets_nothing_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match=r"line 2 is not of the form name = value"):
        parse_conf(f"a = 1\n{line}")


def test_a_child_does_not_hide_its_failure() -> None:
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        in_child(lambda: 1 // 0)
