"""The profiles: the published list word for word, files that sysctl takes, and data that make sense."""

import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_helpers import GIB, PUBLISHED, enter_namespaces, in_child, namespaced

from fastkv.kernel.profile import PROFILES, RESERVED_PORTS, Scope, Setting, conf_directory, load, ports
from fastkv.kernel.sysctl import Tree, parse_conf, path_of

CONF = conf_directory()
SETTINGS = {setting.name: setting for setting in load("recommended").settings}
RULES = {"at least", "at most", "wider", "includes", "one of", "any"}
# The scope of each in Linux 6: what a new network namespace has in its own table.
HOST_ONLY = {
    "net.core.netdev_max_backlog",
    "net.ipv4.tcp_mem",
    "fs.file-max",
    "fs.nr_open",
    "vm.overcommit_memory",
    "transparent_hugepage.shmem_enabled",
}
KEYS = {
    "name", "path", "scope", "rule", "accept", "scaled", "unit_bytes", "wanted", "advice",
    "why", "risk", "gone", "pod",
}  # fmt: skip

needs_sysctl = pytest.mark.skipif(
    shutil.which("sysctl") is None, reason="needs sysctl, of the package procps"
)


def test_ultrafast_is_the_published_list_and_the_port() -> None:
    assert dict(load("ultrafast").values) == {**PUBLISHED, RESERVED_PORTS: "7171"}
    assert load("ultrafast").exact
    assert not load("recommended").exact


def test_every_published_setting_has_a_row_in_both_profiles() -> None:
    for name in PROFILES:
        names = [setting.name for setting in load(name).settings]
        assert set(names) >= {*PUBLISHED, RESERVED_PORTS}
        assert len(names) == len(set(names))


@pytest.mark.parametrize("name", PROFILES)
def test_a_file_has_each_setting_once_and_in_the_form_of_sysctl(name: str) -> None:
    text = (CONF / f"{name}.conf").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(lines) == len(parse_conf(text))
    assert all(line.removeprefix("-").count(" = ") == 1 for line in lines)
    # A namespace of its own has only what is not global: that alone may fail.
    may_fail = {line[1:].split(" = ")[0] for line in lines if line.startswith("-")}
    assert may_fail == (HOST_ONLY | {"net.ipv4.tcp_tw_recycle"}) & parse_conf(text).keys()


@needs_sysctl
@pytest.mark.parametrize("name", PROFILES)
@namespaced
def test_sysctl_takes_the_file_and_the_values_are_read_back(name: str) -> None:
    command = ["sysctl", "-p", str(CONF / f"{name}.conf")]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stderr.splitlines()
    # It names what is not there, or is read-only here, and goes on; by -e that is no error.
    may_fail = (*HOST_ONLY, "net.ipv4.tcp_tw_recycle")
    assert [line for line in told if not any(path_of(key) in line or key in line for key in may_fail)] == []
    done = subprocess.run([*command, "-e"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    tree = Tree()
    values = dict(load(name).values)
    there = {key for key in values if SETTINGS[key].scope is Scope.NETWORK} - {"net.ipv4.tcp_tw_recycle"}
    assert len(there) == {"recommended": 9, "ultrafast": 13}[name]
    assert {key: tree.read(path_of(key)) for key in there} == {key: values[key] for key in there}


@namespaced
def test_the_scopes_are_those_of_this_kernel() -> None:
    tree = Tree()
    assert {name for name, setting in SETTINGS.items() if setting.scope is Scope.GLOBAL} == HOST_ONLY
    for name, setting in SETTINGS.items():
        if name.startswith("net."):
            absent = name in HOST_ONLY or bool(setting.gone)
            assert (tree.read(setting.path) is None) == absent, name


def test_the_data_make_sense() -> None:
    tables = tomllib.loads((CONF / "tuning.toml").read_text(encoding="utf-8"))
    assert set(tables["profiles"]) == set(PROFILES)
    for table in tables["settings"]:
        assert table.keys() <= KEYS, table["name"]
    for setting in SETTINGS.values():
        assert setting.rule in RULES
        assert bool(setting.accept) == (setting.rule == "one of")
        assert not setting.wanted or not setting.scaled
        assert setting.advice or setting.path.startswith("proc/sys/")
        assert sorted(setting.scaled) == list(setting.scaled)
        assert all(0 < share < 1 for share in setting.scaled)
        for line in (setting.why, setting.risk):
            assert len(line) <= 110
            assert line.isprintable()
            assert not line or line.endswith(".")
        assert setting.why
        if setting.accept and setting.wanted:
            assert setting.wanted in setting.accept


@pytest.mark.parametrize("name", PROFILES)
def test_every_value_has_as_many_numbers_as_the_kernel_wants(name: str) -> None:
    shapes = {"net.ipv4.tcp_mem": 3, "net.ipv4.tcp_rmem": 3, "net.ipv4.tcp_wmem": 3}
    shapes["net.ipv4.ip_local_port_range"] = 2
    for key, value in load(name).values.items():
        numbers = value.split(" ")
        assert len(numbers) == shapes.get(key, 1), key
        assert all(number.isdecimal() for number in numbers)
        assert sorted(map(int, numbers)) == [int(number) for number in numbers]


def test_what_recommended_wants_meets_its_own_rules() -> None:
    for key, value in load("recommended").values.items():
        assert SETTINGS[key].is_met(value, value), key
        assert SETTINGS[key].rule != "any", key


def test_the_data_are_found_in_the_package_and_beside_it(tmp_path: Path) -> None:
    assert (CONF / "tuning.toml").is_file()
    shutil.copytree(CONF, tmp_path / "conf")
    text = (CONF / "recommended.conf").read_text(encoding="utf-8")
    (tmp_path / "conf/recommended.conf").write_text(f"{text}net.odd = 1\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"recommended\.conf sets what tuning\.toml does not know: \['net"):
        load("recommended", conf=tmp_path / "conf")


@pytest.mark.parametrize(("port", "reserved"), [(None, "7171"), (0, "7171"), (80, "80"), (7171, "7171")])
@pytest.mark.parametrize("name", PROFILES)
def test_the_server_s_port_is_reserved(name: str, port: int | None, reserved: str) -> None:
    assert load(name, port).values[RESERVED_PORTS] == reserved


@pytest.mark.parametrize(
    ("gib", "tcp_mem", "file_max"),
    [
        (1, "11796 15728 23592", "99614"),
        (24, "283115 377487 566231", "2390753"),
        (512, "6039797 8053063 12079595", "51002736"),
    ],
)
def test_two_settings_grow_with_the_memory(gib: int, tcp_mem: str, file_max: str) -> None:
    recommended, ultrafast = load("recommended"), load("ultrafast")
    for name, scaled in (("net.ipv4.tcp_mem", tcp_mem), ("fs.file-max", file_max)):
        assert recommended.wanted(SETTINGS[name], gib * GIB) == scaled
        assert ultrafast.wanted(SETTINGS[name], gib * GIB) == PUBLISHED[name]
        # Without the memory nothing is wanted, rather than nothing at all be given.
        assert recommended.wanted(SETTINGS[name], 0) is None
    least, pressure, most = map(int, tcp_mem.split())
    assert least < pressure < most < gib * GIB // 4096 // 10


# -- rules ---------------------------------------------------------------------------------------------------


def setting(rule: str, accept: tuple[str, ...] = ()) -> Setting:
    return Setting(name="x.y", scope=Scope.NETWORK, rule=rule, why="Why.", path="proc/sys/x/y", accept=accept)


@pytest.mark.parametrize(
    ("rule", "current", "wanted", "improved"),
    [
        ("at least", "1", "2", "2"),
        ("at least", "2", "2", "2"),
        ("at least", "3", "2", "3"),
        ("at least", "9223372036854775807", "2", "9223372036854775807"),
        ("at least", "1 5 3", "2 4 6", "2 5 6"),
        ("at least", "5 5 6", "2 4 6", "5 5 6"),
        ("at least", "-1", "2", "2"),
        ("at least", "", "2", "2"),
        ("at least", "many", "2", "2"),
        ("at least", "1 2", "3", "3"),
        ("at most", "60", "30", "30"),
        ("at most", "30", "30", "30"),
        ("at most", "10", "30", "10"),
        ("wider", "32768 60999", "1024 65535", "1024 65535"),
        ("wider", "1000 65535", "1024 65535", "1000 65535"),
        ("wider", "40000 65535", "32768 60999", "32768 65535"),
        ("wider", "1024 2000", "32768 60999", "1024 60999"),
        ("wider", "32768", "32768 60999", "32768 60999"),
        ("includes", "", "7171", "7171"),
        ("includes", "7171", "7171", "7171"),
        ("includes", "9000", "7171", "7171,9000"),
        ("includes", "80,9000-9100", "7171", "80,7171,9000-9100"),
        ("includes", "7170,7172", "7171", "7170-7172"),
        ("includes", "7000-8000", "7171", "7000-8000"),
        ("includes", "7170-7171", "7171-7172", "7170-7172"),
        ("includes", "80", "7171-7173", "80,7171-7173"),
        ("includes", "odd", "7171", "7171"),
        ("one of", "2", "1", "2"),
        ("one of", "0", "1", "1"),
        ("one of", "", "1", "1"),
        ("any", "17", "3", "17"),
        ("any", "", "3", ""),
    ],
)
def test_a_rule_keeps_what_is_good(rule: str, current: str, wanted: str, improved: str) -> None:
    judged = setting(rule, ("1", "2") if rule == "one of" else ())
    assert judged.improved(current, wanted) == improved
    assert judged.is_met(current, wanted) == (improved == current)
    assert judged.is_met(improved, wanted)


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("", []),
        ("7171", [(7171, 7171)]),
        ("80,9000-9100", [(80, 80), (9000, 9100)]),
        ("80, 81", [(80, 80), (81, 81)]),
    ],
)
def test_a_list_of_ports_is_read(text: str, pairs: list[tuple[int, int]]) -> None:
    assert ports(text) == pairs


def as_list(numbers: set[int]) -> str:
    return ",".join(map(str, sorted(numbers)))


def as_set(text: str) -> set[int]:
    return {port for low, high in ports(text) for port in range(low, high + 1)}


@given(st.sets(st.integers(1, 60)), st.sets(st.integers(1, 60), min_size=1))
def test_reserved_ports_are_joined_and_none_is_lost(have: set[int], wanted: set[int]) -> None:
    joined = setting("includes").improved(as_list(have), as_list(wanted))
    assert as_set(joined) == have | wanted


@namespaced
def test_a_joined_list_is_what_the_kernel_makes_of_it() -> None:
    path, reserved = path_of(RESERVED_PORTS), SETTINGS[RESERVED_PORTS]
    cases = [{9000}, {7170, 7172}, {7170}, {1, 2, 3, 9}, {7172, 7173, 65535}]
    for have in cases:
        Tree().write(path, as_list(have))
        current = Tree().read(path)
        assert current is not None
        joined = reserved.improved(current, "7171")
        Tree().write(path, joined)
        assert Tree().read(path) == joined


def test_a_namespace_is_never_the_machine_s(tmp_path: Path) -> None:
    """What all of these tests rest on."""
    before = Tree().read(path_of("net.core.somaxconn"))

    def change() -> None:
        enter_namespaces()
        Tree().write(path_of("net.core.somaxconn"), "4097")
        with pytest.raises(OSError, match="Read-only"):
            Tree().write(path_of("fs.file-max"), "1000000")

    try:
        in_child(change)
    except AssertionError:
        pytest.skip("needs namespaces of its own")
    assert Tree().read(path_of("net.core.somaxconn")) == before
