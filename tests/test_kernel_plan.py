"""Verdicts: each of the six on made-up machines, and the law that nothing good is made worse."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_helpers import (
    FRESH,
    GIB,
    PUBLISHED,
    SHMEM_PATH,
    Memory,
    as_nobody,
    directory_in_memory,
    make_files,
    make_read_only,
    memory_path,
    namespaced,
    plan_of,
    rows_of,
)

from fastkv.kernel.limits import OpenFiles
from fastkv.kernel.plan import Verdict, judge_open_files
from fastkv.kernel.profile import PROFILES, Scope, ports
from fastkv.kernel.sysctl import Tree, path_of
from fastkv.kernel.tuning import Outcome, Tuner

tmp_path = memory_path

APPLY, BETTER, OBSOLETE, RISKY, NOT_PERMITTED, ABSENT = Verdict

# Of a machine that is otherwise fresh: profile, what differs; setting, verdict, wanted, part of the reason.
CASES: list[tuple[str, dict[str, str | None], str, Verdict, str | None, str]] = [
    ("recommended", {}, "net.core.somaxconn", APPLY, "16384", "Clients that wait"),
    ("recommended", {"somaxconn": "16384"}, "net.core.somaxconn", BETTER, "16384", ""),
    ("recommended", {"somaxconn": "65535"}, "net.core.somaxconn", BETTER, "65535", ""),
    ("recommended", {"somaxconn": None}, "net.core.somaxconn", ABSENT, "16384", "This kernel does not have"),
    ("recommended", {"somaxconn": ""}, "net.core.somaxconn", APPLY, "16384", ""),
    ("recommended", {"somaxconn": "many"}, "net.core.somaxconn", APPLY, "16384", ""),
    (
        "recommended",
        {"tcp_mem": None},
        "net.ipv4.tcp_mem",
        ABSENT,
        "283115 377487 566231",
        "Only the host's own network",
    ),
    (
        "ultrafast",
        {"tcp_mem": None},
        "net.ipv4.tcp_mem",
        ABSENT,
        PUBLISHED["net.ipv4.tcp_mem"],
        "too much below",
    ),
    ("recommended", {}, "net.ipv4.tcp_tw_recycle", OBSOLETE, None, "Linux 4.12"),
    ("ultrafast", {}, "net.ipv4.tcp_tw_recycle", OBSOLETE, "1", "Linux 4.12"),
    ("recommended", {"tcp_fin_timeout": "10"}, "net.ipv4.tcp_fin_timeout", BETTER, "10", ""),
    ("recommended", {}, "net.ipv4.tcp_fin_timeout", APPLY, "30", ""),
    (
        "recommended",
        {"ip_local_port_range": "1024\t65535"},
        "net.ipv4.ip_local_port_range",
        BETTER,
        "1024 65535",
        "",
    ),
    (
        "recommended",
        {"ip_local_port_range": "40000\t65535"},
        "net.ipv4.ip_local_port_range",
        APPLY,
        "32768 65535",
        "",
    ),
    (
        "recommended",
        {"ip_local_reserved_ports": "80,7000-7999"},
        "net.ipv4.ip_local_reserved_ports",
        BETTER,
        "80,7000-7999",
        "",
    ),
    (
        "recommended",
        {"ip_local_reserved_ports": "80"},
        "net.ipv4.ip_local_reserved_ports",
        APPLY,
        "80,7171",
        "",
    ),
    (
        "ultrafast",
        {"ip_local_reserved_ports": "80"},
        "net.ipv4.ip_local_reserved_ports",
        APPLY,
        "80,7171",
        "",
    ),
    (
        "ultrafast",
        {"ip_local_reserved_ports": "80,7171"},
        "net.ipv4.ip_local_reserved_ports",
        BETTER,
        "80,7171",
        "",
    ),
    (
        "recommended",
        {"tcp_rmem": "8192\t87380\t4194304"},
        "net.ipv4.tcp_rmem",
        APPLY,
        "8192 131072 6291456",
        "",
    ),
    ("recommended", {}, "net.ipv4.tcp_rmem", BETTER, "4096 131072 33554432", ""),
    ("recommended", {"tcp_syncookies": "0"}, "net.ipv4.tcp_syncookies", APPLY, "1", "SYN flood"),
    ("recommended", {"tcp_syncookies": "2"}, "net.ipv4.tcp_syncookies", BETTER, "2", ""),
    ("recommended", {"tcp_tw_reuse": "0"}, "net.ipv4.tcp_tw_reuse", APPLY, "2", ""),
    ("recommended", {"tcp_tw_reuse": "1"}, "net.ipv4.tcp_tw_reuse", BETTER, "1", ""),
    ("recommended", {"tcp_fastopen": "0"}, "net.ipv4.tcp_fastopen", BETTER, None, ""),
    ("recommended", {"tcp_keepalive_time": "1"}, "net.ipv4.tcp_keepalive_time", BETTER, None, ""),
    ("recommended", {"file_max": "9223372036854775807"}, "fs.file-max", BETTER, "9223372036854775807", ""),
    ("recommended", {"nr_open": "4096"}, "fs.nr_open", RISKY, "1048576", "The most that"),
    ("recommended", {"overcommit_memory": "2"}, "vm.overcommit_memory", RISKY, "0", "With 2"),
    ("recommended", {"overcommit_memory": "1"}, "vm.overcommit_memory", BETTER, "1", ""),
    ("ultrafast", {"overcommit_memory": "2"}, "vm.overcommit_memory", RISKY, "0", "With 2"),
    ("recommended", {}, "transparent_hugepage.shmem_enabled", BETTER, None, "no faster"),
    ("ultrafast", {}, "net.ipv4.tcp_syncookies", RISKY, "0", "forged packets"),
    ("ultrafast", {"tcp_syncookies": "0"}, "net.ipv4.tcp_syncookies", BETTER, "0", ""),
    ("ultrafast", {}, "net.core.somaxconn", APPLY, "131072", ""),
    (
        "ultrafast",
        {"somaxconn": "262144"},
        "net.core.somaxconn",
        RISKY,
        "131072",
        "The present 262144 is better.",
    ),
    ("ultrafast", {}, "net.ipv4.tcp_tw_reuse", RISKY, "1", "The present 2 is better."),
    ("ultrafast", {}, "fs.file-max", RISKY, "2097152", "The present 2466177 is better."),
    (
        "ultrafast",
        {"tcp_wmem": "4096\t16384\t33554432"},
        "net.ipv4.tcp_wmem",
        RISKY,
        "4096 87380 6291456",
        "The present 4096 16384 33554432 is better in part.",
    ),
    ("ultrafast", {"file_max": "9223372036854775807"}, "fs.file-max", RISKY, "2097152", "is better."),
    ("ultrafast", {"tcp_fin_timeout": "5"}, "net.ipv4.tcp_fin_timeout", RISKY, "10", "present 5 is better."),
    ("ultrafast", {"tcp_keepalive_time": "5"}, "net.ipv4.tcp_keepalive_time", APPLY, "60", "--keepalive-sec"),
    ("ultrafast", {}, "net.ipv4.tcp_rmem", RISKY, "4096 87380 6291456", "131072"),
    (
        "ultrafast",
        {"tcp_rmem": "4096\t87380\t6291456"},
        "net.ipv4.tcp_rmem",
        BETTER,
        "4096 87380 6291456",
        "",
    ),
]


@pytest.mark.parametrize(("profile", "changes", "name", "verdict", "wanted", "reason"), CASES)
def test_verdicts(
    tmp_path: Path,
    profile: str,
    changes: dict[str, str | None],
    name: str,
    verdict: Verdict,
    wanted: str | None,
    reason: str,
) -> None:
    row = rows_of(plan_of(make_files(tmp_path, **changes), profile))[name]
    assert (row.verdict, row.wanted) == (verdict, wanted)
    assert reason in row.why
    assert row.writes == (verdict in (APPLY, RISKY) and not (row.setting and row.setting.advice))


def test_a_setting_that_is_gone_is_obsolete_also_where_it_is_there(tmp_path: Path) -> None:
    tree = make_files(tmp_path)
    path = path_of("net.ipv4.tcp_tw_recycle")
    (tmp_path / path).write_text("0\n")
    for profile in PROFILES:
        plan = plan_of(tree, profile)
        row = rows_of(plan)["net.ipv4.tcp_tw_recycle"]
        assert (row.verdict, row.current, row.writes) == (OBSOLETE, "0", False)
        Tuner(tree, tmp_path / "state").apply(plan)
    assert tree.read(path) == "0"


def test_every_row_of_both_profiles_has_one_line_of_reason(tmp_path: Path) -> None:
    for number, changes in enumerate(({}, dict.fromkeys(("somaxconn", "tcp_mem", "tcp_rmem"), None))):
        tree = make_files(tmp_path / str(number), **changes)
        for profile in PROFILES:
            rows = rows_of(plan_of(tree, profile))
            assert rows.keys() >= PUBLISHED.keys()
            for row in rows.values():
                assert row.why.endswith(".")
                assert row.why.isprintable()


def test_whatever_ultrafast_makes_riskier_has_a_warning(tmp_path: Path) -> None:
    rows = rows_of(plan_of(make_files(tmp_path), "ultrafast"))
    risky = {name for name, row in rows.items() if row.verdict is RISKY}
    assert risky >= {
        "net.core.netdev_max_backlog",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.tcp_mem",
        "net.ipv4.tcp_rmem",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.tcp_fastopen",
    }
    for name in risky:
        row = rows[name]
        assert row.setting is not None
        assert row.why != row.setting.why


@pytest.mark.parametrize(
    ("gib", "tcp_mem", "file_max"),
    [
        (1, "11796 15728 23592", "99614"),
        (24, "283115 377487 566231", "2390753"),
        (512, "6039797 8053063 12079595", "51002736"),
    ],
)
def test_what_is_scaled_is_judged_by_the_machine(
    tmp_path: Path, gib: int, tcp_mem: str, file_max: str
) -> None:
    tree = make_files(tmp_path, gib * GIB, tcp_mem="1\t2\t3", file_max="1000")
    rows = rows_of(plan_of(tree))
    assert (rows["net.ipv4.tcp_mem"].wanted, rows["net.ipv4.tcp_mem"].verdict) == (tcp_mem, APPLY)
    assert (rows["fs.file-max"].wanted, rows["fs.file-max"].verdict) == (file_max, APPLY)
    # What the kernel chooses is enough: 3/64, 1/16 and 3/32 of 97% of the pages, one file in 10 KiB.
    pages = gib * GIB // 4096 * 97 // 100
    own = f"{pages * 3 // 64}\t{pages // 16}\t{pages * 3 // 32}"
    tree = make_files(tmp_path, gib * GIB, tcp_mem=own, file_max=str(gib * GIB * 97 // 100 // 10240))
    rows = rows_of(plan_of(tree))
    assert {rows[name].verdict for name in ("net.ipv4.tcp_mem", "fs.file-max")} == {BETTER}


def test_without_the_memory_nothing_is_scaled(tmp_path: Path) -> None:
    tree = make_files(tmp_path, tcp_mem="1\t2\t3")
    (tmp_path / "proc/meminfo").unlink()
    row = rows_of(plan_of(tree))["net.ipv4.tcp_mem"]
    assert (row.verdict, row.wanted) == (BETTER, None)


def test_advice_is_never_written(tmp_path: Path) -> None:
    tree = make_files(tmp_path, nr_open="4096", overcommit_memory="2")
    for profile in PROFILES:
        plan = plan_of(tree, profile)
        advice = [row for row in plan.rows if row.setting and row.setting.advice]
        assert len(advice) == 3
        assert not any(row.writes or row.counts for row in advice)
        names = {change.name for change in Tuner(tree, tmp_path / "state").apply(plan)}
        assert not names & {row.name for row in advice}
    assert tree.read(path_of("fs.nr_open")) == "4096"
    assert tree.read(path_of("vm.overcommit_memory")) == "2"
    assert tree.read(SHMEM_PATH) == "never"
    assert plan_of(tree, "ultrafast").in_place


def test_what_cannot_be_opened_is_not_permitted() -> None:
    tree = Memory()
    tree.locked = set(tree.values)
    for profile in PROFILES:
        plan = plan_of(tree, profile)
        assert not any(row.writes for row in plan.rows)
        assert not plan.in_place
        rows = rows_of(plan)
        assert {row.verdict for row in rows.values()} == {BETTER, OBSOLETE, NOT_PERMITTED}
        # The risk is told all the same: somebody else may set it.
        for name, row in rows_of(plan_of(Memory(), profile)).items():
            assert rows[name].why == row.why


@namespaced
def test_in_a_read_only_mount_everything_is_not_permitted_or_good(tmp_path: Path) -> None:
    make_read_only("/proc/sys")
    for profile in PROFILES:
        plan = plan_of(Tree(), profile)
        assert {row.verdict for row in plan.rows} == {NOT_PERMITTED, BETTER, ABSENT, OBSOLETE}
        assert Tuner(Tree(), tmp_path / "state").apply(plan) == []
    assert not (tmp_path / "state").exists()


@namespaced
def test_for_another_user_everything_is_not_permitted_or_good() -> None:
    def look() -> None:
        for profile in PROFILES:
            verdicts = {row.verdict for row in plan_of(Tree(), profile).rows}
            assert verdicts == {NOT_PERMITTED, BETTER, ABSENT, OBSOLETE}

    as_nobody(look)


@pytest.mark.parametrize(
    ("files", "verdicts"),
    [
        (OpenFiles(soft=1024, hard=4096, reachable=4096, wanted=2000), (APPLY, BETTER)),
        (OpenFiles(soft=1024, hard=4096, reachable=4096, wanted=4096), (APPLY, BETTER)),
        (OpenFiles(soft=1024, hard=4096, reachable=8192, wanted=8192), (APPLY, APPLY)),
        (OpenFiles(soft=1024, hard=4096, reachable=4096, wanted=8192), (APPLY, NOT_PERMITTED)),
        (OpenFiles(soft=4096, hard=4096, reachable=4096, wanted=8192), (NOT_PERMITTED, NOT_PERMITTED)),
        (OpenFiles(soft=9000, hard=9000, reachable=9000, wanted=8192), (BETTER, BETTER)),
    ],
)
def test_limits_of_open_files(files: OpenFiles, verdicts: tuple[Verdict, Verdict]) -> None:
    soft, hard = judge_open_files(files)
    assert (soft.verdict, hard.verdict) == verdicts
    assert (soft.current, hard.current) == (str(files.soft), str(files.hard))
    for row in (soft, hard):
        assert (row.scope, row.wanted) == (Scope.PROCESS, str(files.wanted))
        assert not row.writes
        assert not row.counts


# -- the law -------------------------------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.integers(0, 10), st.integers(0, 200_000), st.integers(0, 2**63 - 1), st.sampled_from([30, 4096, 16384])
).map(str)
TRIPLES = st.tuples(*[st.integers(0, 2**40)] * 3).map(lambda numbers: " ".join(map(str, sorted(numbers))))
RANGES = st.tuples(*[st.integers(1, 65535)] * 2).map(lambda pair: f"{min(pair)} {max(pair)}")
PORTS = st.lists(st.integers(1, 65535), max_size=5).map(lambda found: ",".join(map(str, sorted(found))))
SHAPES = {
    "net.ipv4.tcp_mem": TRIPLES,
    "net.ipv4.tcp_rmem": TRIPLES,
    "net.ipv4.tcp_wmem": TRIPLES,
    "net.ipv4.ip_local_port_range": RANGES,
    "net.ipv4.ip_local_reserved_ports": PORTS,
    "net.ipv4.tcp_syncookies": st.sampled_from("012"),
    "net.ipv4.tcp_tw_reuse": st.sampled_from("012"),
}
MACHINES = st.fixed_dictionaries({name: SHAPES.get(name, NUMBERS) for name in FRESH})
GROWING = {
    "net.core.somaxconn",
    "net.core.netdev_max_backlog",
    "net.ipv4.tcp_max_syn_backlog",
    "net.ipv4.tcp_mem",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "fs.file-max",
}


def is_no_worse(name: str, before: str, after: str) -> bool:
    """Said anew here, by the sense of each setting."""
    if name in GROWING:
        pairs = zip(map(int, before.split()), map(int, after.split()), strict=True)
        return all(old <= new for old, new in pairs)
    match name:
        case "net.ipv4.tcp_fin_timeout":
            return int(after) <= int(before)
        case "net.ipv4.tcp_syncookies" | "net.ipv4.tcp_tw_reuse":
            return after == before or before == "0"
        case "net.ipv4.ip_local_port_range":
            (low, high), (lower, higher) = map(int, before.split()), map(int, after.split())
            return lower <= low and high <= higher
        case "net.ipv4.ip_local_reserved_ports":
            kept = [(low, high) for low, high in ports(before)]
            return all(any(a <= low and high <= b for a, b in ports(after)) for low, high in kept)
    return after == before


@settings(max_examples=150, deadline=None)
@given(MACHINES)
def test_recommended_makes_nothing_worse_is_done_at_once_and_can_be_undone(values: dict[str, str]) -> None:
    tree = Memory(values)
    with directory_in_memory() as state:
        tuner = Tuner(tree, state)
        changes = tuner.apply(plan_of(tree))
        assert {change.outcome for change in changes} <= {Outcome.CHANGED}
        for name, before in values.items():
            assert is_no_worse(name, before, tree.named(name) or ""), name
        after = plan_of(tree)
        assert after.in_place
        assert not any(row.writes for row in after.rows)
        tree.written.clear()
        assert tuner.apply(after) == []
        assert tree.written == []
        tuner.revert()
        assert {name: tree.named(name) for name in values} == values
        assert tuner.revert() == []


@settings(max_examples=50, deadline=None)
@given(MACHINES)
def test_ultrafast_is_reached_from_everywhere_and_can_be_undone(values: dict[str, str]) -> None:
    tree = Memory(values)
    with directory_in_memory() as state:
        tuner = Tuner(tree, state)
        tuner.apply(plan_of(tree, "ultrafast"))
        for name in PUBLISHED.keys() - {"net.ipv4.tcp_tw_recycle"}:
            assert tree.named(name) == PUBLISHED[name]
        assert plan_of(tree, "ultrafast").in_place
        tuner.revert()
        assert {name: tree.named(name) for name in values} == values
