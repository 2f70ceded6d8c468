"""The same settings for Docker, compose, Kubernetes and the host: lines that parse, apart by who can."""

import re
import shlex
from pathlib import Path

import pytest
from kernel_helpers import Memory, make_files, memory_path, plan_of, rows_of

from fastkv.kernel.equivalents import Equivalents
from fastkv.kernel.limits import OpenFiles
from fastkv.kernel.plan import Plan, Verdict, judge, judge_open_files
from fastkv.kernel.profile import PROFILES, Scope, load
from fastkv.kernel.sysctl import path_of

tmp_path = memory_path

LOW = OpenFiles(soft=1024, hard=4096, reachable=4096, wanted=1 << 20)
RAISED = OpenFiles(soft=1024, hard=4096, reachable=1 << 20, wanted=1 << 20)
HIGH = OpenFiles(soft=1 << 20, hard=1 << 20, reachable=1 << 20, wanted=1 << 20)
# kubernetes.io, "Using sysctls in a Kubernetes Cluster": safe, and since when where that is told.
SAFE = {
    "net.ipv4.ip_local_port_range": None,
    "net.ipv4.tcp_syncookies": None,
    "net.ipv4.ip_local_reserved_ports": "1.27",
    "net.ipv4.tcp_keepalive_time": "1.29",
    "net.ipv4.tcp_fin_timeout": "1.29",
    "net.ipv4.tcp_keepalive_intvl": "1.29",
    "net.ipv4.tcp_keepalive_probes": "1.29",
    "net.ipv4.tcp_rmem": "1.32",
    "net.ipv4.tcp_wmem": "1.32",
}


def plan_with(files: OpenFiles, profile: str = "recommended", *, locked: bool = True) -> Plan:
    tree = Memory()
    if locked:
        tree.locked = set(tree.values)
    return judge(tree, load(profile), judge_open_files(files))


def wanted(plan: Plan, scope: Scope) -> dict[str, str | None]:
    """What is to be set by whom."""
    stuck = (Verdict.APPLY, Verdict.RISKY, Verdict.NOT_PERMITTED)
    return {
        row.name: row.wanted
        for row in plan.rows
        if row.scope is scope and row.verdict in stuck and row.setting and not row.setting.advice
    }


def parse_docker(line: str) -> tuple[dict[str, str | None], list[str]]:
    """Sysctls and ulimits of a command line, as a shell splits it."""
    words = shlex.split(line)
    assert words[:2] == ["docker", "run"]
    pairs = list(zip(words[2::2], words[3::2], strict=True))
    assert {flag for flag, _ in pairs} <= {"--sysctl", "--ulimit"}
    sysctls: dict[str, str | None] = {}
    for flag, text in pairs:
        if flag == "--sysctl":
            name, _, value = text.partition("=")
            sysctls[name] = value
    return sysctls, [text for flag, text in pairs if flag == "--ulimit"]


def parse_compose(text: str) -> dict[str, str | None]:
    head, *lines = text.split("\nulimits:")[0].splitlines()
    assert head == "sysctls:"
    found = [re.fullmatch(r'  ([a-z0-9_.]+): "([0-9 ,-]+)"', line) for line in lines]
    assert all(found)
    return {match[1]: match[2] for match in found if match}


def parse_pod(text: str) -> dict[str, str | None]:
    assert text.startswith("securityContext:\n  sysctls:\n")
    body = text.removeprefix("securityContext:\n  sysctls:\n") + "\n"
    item = r'    - name: ([a-z0-9_.]+)\n      value: "([0-9 ,-]+)"\n'
    assert re.fullmatch(f"(?:{item})+", body)
    return dict(re.findall(item, body))


@pytest.mark.parametrize("locked", [True, False])
@pytest.mark.parametrize("profile", PROFILES)
def test_every_form_says_the_same(profile: str, locked: bool) -> None:
    plan = plan_with(LOW, profile, locked=locked)
    others = Equivalents.of(plan)
    own = wanted(plan, Scope.NETWORK)
    assert len(own) == {"recommended": 4, "ultrafast": 13}[profile]
    docker, ulimits = parse_docker(others.docker)
    assert docker == parse_compose(others.compose) == parse_pod(others.pod) == own
    assert ulimits == ["nofile=1048576:1048576"]
    assert others.compose.endswith("\nulimits:\n  nofile: {soft: 1048576, hard: 1048576}")
    assert {*others.pod_safe, *others.pod_unsafe} == own.keys()
    host = dict(shlex.split(line)[2].split("=", 1) for line in others.host)
    assert host == wanted(plan, Scope.GLOBAL)
    assert all(line.startswith("sysctl -w ") for line in others.host)
    assert not host.keys() & own.keys()


def test_what_a_pod_may_set_is_the_kubelet_s_list() -> None:
    found = {setting.name: setting.pod for setting in load("ultrafast").settings if setting.pod}
    assert found == {name: version or found.get(name) for name, version in SAFE.items()}


@pytest.mark.parametrize(("files", "told"), [(LOW, True), (RAISED, False), (HIGH, False)])
def test_the_limit_of_open_files_is_told_where_it_cannot_be_raised(files: OpenFiles, told: bool) -> None:
    others = Equivalents.of(plan_with(files))
    assert ("--ulimit" in others.docker) == told
    assert ("ulimits" in others.compose) == told
    assert "nofile" not in others.pod


def test_a_container_is_told_what_only_the_host_has(tmp_path: Path) -> None:
    absent = dict.fromkeys(("netdev_max_backlog", "tcp_mem"), None)
    plan = plan_of(make_files(tmp_path, **absent))
    assert Equivalents.of(plan).host == [
        # Not seen from here: the host's may be larger, and must not be made smaller by a copied line.
        "sysctl -w net.core.netdev_max_backlog=4096  # unless it is as good already",
        'sysctl -w net.ipv4.tcp_mem="283115 377487 566231"  # unless it is as good already',
    ]


def test_a_list_of_ports_keeps_those_of_others(tmp_path: Path) -> None:
    plan = plan_of(make_files(tmp_path, ip_local_reserved_ports="80,9000-9100"))
    docker, _ = parse_docker(Equivalents.of(plan).docker)
    assert docker["net.ipv4.ip_local_reserved_ports"] == "80,7171,9000-9100"


def test_where_nothing_is_missing_there_is_nothing_to_copy(tmp_path: Path) -> None:
    tree = Memory()
    for row in plan_of(tree).rows:
        if row.writes:
            tree.write(path_of(row.name), row.wanted or "")
    assert Equivalents.of(plan_of(tree)) == Equivalents("", "", "", {}, [], [])


def test_advice_and_what_is_gone_is_for_nobody_to_copy(tmp_path: Path) -> None:
    tree = make_files(tmp_path, overcommit_memory="2", nr_open="4096")
    plan = plan_of(tree, "ultrafast")
    assert rows_of(plan)["vm.overcommit_memory"].verdict is Verdict.RISKY
    others = Equivalents.of(plan)
    for text in (others.docker, others.compose, others.pod, "\n".join(others.host)):
        assert not re.search("overcommit|nr_open|tw_recycle|shmem", text)
