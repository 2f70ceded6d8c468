"""``fastkv tune-kernel``: its options, exit codes, and what it does without being told how."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from kernel_helpers import (
    BOOT_ID,
    DROP_IN,
    Screen,
    changed,
    contents,
    make_files,
    make_read_only,
    memory_path,
    namespaced,
    tune,
)
from server import ROOT, environment

from fastkv.kernel.command import Action
from fastkv.kernel.sysctl import Tree, path_of

tmp_path = memory_path

SOMAXCONN = "net.core.somaxconn"
RESERVED = "net.ipv4.ip_local_reserved_ports"
CONFLICT = "fastkv: --apply, --check and --revert exclude each other; --persist goes with --apply.\n"


def test_without_a_flag_nothing_is_changed(tmp_path: Path) -> None:
    tree = make_files(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for flags in ((), ("--json",), ("--check",), ("--check", "--json"), ("--profile", "ultrafast")):
        ran = tune(*flags, "--root", tmp_path, "--state-dir", tmp_path / "state")
        assert ran.err == ""
        assert ran.out
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "state").exists()
    assert tree.read(path_of(SOMAXCONN)) == "4096"


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_exit_codes(tmp_path: Path, form: tuple[str, ...]) -> None:
    make_files(tmp_path)
    flags = (*form, "--root", tmp_path, "--state-dir", tmp_path / "state")
    assert tune(*flags).code == 0
    assert tune("--check", *flags).code == 1
    assert tune("--apply", *flags).code == 0
    assert tune("--check", *flags).code == 0
    assert tune("--check", "--profile", "ultrafast", *flags).code == 1
    assert tune("--apply", "--profile", "ultrafast", *flags).code == 0
    assert tune("--check", "--profile", "ultrafast", *flags).code == 0
    # And back below what recommended wants: ultrafast has put SYN cookies out of use.
    assert tune("--check", *flags).code == 1
    assert tune("--revert", *flags).code == 0
    assert tune("--revert", *flags).code == 0
    assert tune("--check", *flags).code == 1


def test_a_check_names_what_is_missing(tmp_path: Path) -> None:
    make_files(tmp_path, tcp_fin_timeout="30")
    flags = ("--root", tmp_path, "--state-dir", tmp_path / "state")
    names = (SOMAXCONN, "net.core.netdev_max_backlog", "net.ipv4.tcp_max_syn_backlog", RESERVED)
    missing = ", ".join(f"{name} (apply)" for name in names)
    assert tune("--check", "--json", *flags).json["notes"] == [
        f"Profile recommended: not as wanted are {missing}."
    ]
    tune("--apply", *flags)
    assert tune("--check", "--json", *flags).json["notes"] == [
        "Profile recommended: everything is as wanted or better."
    ]


@pytest.mark.parametrize(
    "flags",
    [
        "--apply --check",
        "--apply --revert",
        "--check --revert",
        "--apply --check --revert",
        "--check --persist",
        "--revert --persist",
        "--apply --revert --persist",
    ],
)
def test_actions_that_exclude_each_other_are_exit_2(tmp_path: Path, flags: str) -> None:
    make_files(tmp_path)
    before = contents(Tree(tmp_path))
    for form in ((), ("--json",)):
        ran = tune(*flags.split(), *form, "--root", tmp_path, "--state-dir", tmp_path / "state")
        assert (ran.code, ran.out, ran.err) == (2, "", CONFLICT)
    assert contents(Tree(tmp_path)) == before


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--profile fast", "--profile: 'fast' "),
        ("--port 99999", "--port: '99999' is out of range; allowed: 0 to 65535."),
        ("--open-files 1", "--open-files: '1' is out of range; allowed: 64 to "),
        (f"--state-dir {'x' * 5000}", "--state-dir: "),
        ("--config no.toml", "--config: 'no.toml' cannot be read"),
        ("--root /dev/null", "--root: '/dev/null' has no proc/sys, so that there is no kernel to be seen."),
        ("--root /nowhere", "--root: '/nowhere' has no proc/sys, so that there is no kernel to be seen."),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_2(flags: str, sentence: str) -> None:
    for action in ((), ("--apply",), ("--check",), ("--revert",), ("--persist",)):
        ran = tune(*action, *flags.split())
        assert (ran.code, ran.out) == (2, "")
        assert ran.err.startswith(f"fastkv: {sentence}")
        assert ran.err.count("\n") == 1


def test_an_unknown_flag_is_exit_2() -> None:
    assert tune("--aply").code == 2
    assert tune("apply").code == 2


def test_the_environment_and_the_file_are_read(tmp_path: Path) -> None:
    tree = make_files(tmp_path)
    config = tmp_path / "x.toml"
    config.write_text(f'port = 8080\nprofile = "ultrafast"\nstate_dir = "{tmp_path}/from-file"\n')
    flags = ("--root", tmp_path, "--config", config)
    assert tune("--json", *flags).json["profile"] == "ultrafast"
    assert tune("--json", *flags, FASTKV_PROFILE="recommended").json["profile"] == "recommended"
    assert tune("--apply", *flags, FASTKV_PROFILE="recommended").code == 0
    assert tree.read(path_of(RESERVED)) == "8080"
    assert (tmp_path / "from-file" / f"tuning-{BOOT_ID}.json").exists()
    assert tune("--revert", *flags, FASTKV_PORT="0").code == 0
    # A free port cannot be known beforehand: the usual one is reserved.
    assert tune("--apply", *flags, FASTKV_PORT="0", FASTKV_PROFILE="recommended").code == 0
    assert tree.read(path_of(RESERVED)) == "7171"


def test_of_variables_the_unknown_ones_are_told(tmp_path: Path) -> None:
    make_files(tmp_path)
    ran = tune("--json", "--root", tmp_path, FASTKV_PROFIL="ultrafast", FASTKV_SERVICE_HOST="10.0.0.1")
    assert ran.code == 0
    why = "there is no such setting; did you mean FASTKV_PROFILE? It is ignored."
    assert ran.err == f"fastkv: FASTKV_PROFIL (environment): {why}\n"


def test_help_lists_every_flag_and_fits_the_terminal(tmp_path: Path) -> None:
    ran = tune("--help", COLUMNS="80")
    assert ran.code == 0
    assert max(map(len, ran.out.splitlines())) <= 80
    listed = re.findall(r"^  (?:-h, )?(--[a-z-]+)", ran.out, re.MULTILINE)
    assert " ".join(listed) == (
        "--apply --check --revert --persist --json --port --open-files --profile --state-dir --root --config"
        " --help"
    )


@pytest.mark.parametrize("action", [*Action, "apply --persist"])
def test_every_action_prints_json(tmp_path: Path, action: str) -> None:
    make_files(tmp_path)
    flags = ("--root", tmp_path, "--state-dir", tmp_path / "state", "--json")
    words = [] if action == "show" else [f"--{word.lstrip('-')}" for word in action.split()]
    for _ in range(2):
        ran = tune(*words, *flags)
        assert ran.err == ""
        report = ran.json
        assert list(report) == [
            "version", "action", "profile", "ok", "in_place", "settings", "limits", "changes", "persisted",
            "equivalents", "notes",
        ]  # fmt: skip
        assert (report["version"], report["profile"]) == (1, "recommended")
        assert report["action"] == action.split()[0]
        assert report["ok"] == (ran.code == 0)
        assert len(report["settings"]) == 20
        assert [row["name"] for row in report["limits"]] == ["nofile (soft)", "nofile (hard)"]
        for row in (*report["settings"], *report["limits"]):
            assert list(row) == ["name", "scope", "current", "wanted", "verdict", "writes", "why"]


def test_json_shows_the_machine_as_it_is_afterwards(tmp_path: Path) -> None:
    make_files(tmp_path)
    flags = ("--root", tmp_path, "--state-dir", tmp_path / "state", "--json")
    report = tune("--apply", *flags).json
    row = next(row for row in report["settings"] if row["name"] == SOMAXCONN)
    assert row == {
        "name": SOMAXCONN,
        "scope": "network namespace",
        "current": "16384",
        "wanted": "16384",
        "verdict": "already better",
        "writes": False,
        "why": "Clients that wait to be accepted; those past it wait a second more and try again.",
    }
    assert report["in_place"] is True
    assert next(change for change in report["changes"] if change["name"] == SOMAXCONN) == {
        "name": SOMAXCONN,
        "before": "4096",
        "after": "16384",
        "outcome": "changed",
        "reason": "",
    }
    report = tune("--revert", *flags).json
    assert report["in_place"] is False
    assert changed(report)[SOMAXCONN] == ("16384", "4096")


def test_a_setting_that_cannot_be_applied_is_no_failure_without_permission(tmp_path: Path) -> None:
    @namespaced
    def inside() -> None:
        make_read_only("/proc/sys")
        for flags in ((), ("--apply",), ("--revert",)):
            ran = tune(*flags, "--state-dir", tmp_path / "state")
            assert (ran.code, ran.err) == (0, "")
        assert tune("--check", "--state-dir", tmp_path / "state").code == 1
        shown = tune("--apply", "--state-dir", tmp_path / "state").out
        assert "docker run --sysctl net.core.somaxconn=16384 " in shown
        assert not (tmp_path / "state").exists()

    inside()


@namespaced
def test_the_default_place_of_the_record_is_root_s() -> None:
    assert tune("--apply").code == 0
    names = os.listdir("/var/lib/fastkv")
    assert f"tuning-{Tree().boot_id()}.json" in names
    assert tune("--revert").code == 0
    assert os.listdir("/var/lib/fastkv") == ["tuning.lock"]


@namespaced
def test_without_a_home_it_works_all_the_same() -> None:
    env = {name: value for name, value in environment().items() if name != "HOME"}
    command = [sys.executable, "-m", "fastkv", "tune-kernel", "--apply", "--persist", "--json"]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert changed(report)[SOMAXCONN] == ("4096", "16384")
    assert Tree().read(path_of(SOMAXCONN)) == "16384"
    assert DROP_IN.exists()
    done = subprocess.run(
        [*command[:4], "--revert"], env=env, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{SOMAXCONN}: 16384 → 4096\n" in done.stdout
    assert f"{DROP_IN} is removed.\n" in done.stdout
    assert Tree().read(path_of(SOMAXCONN)) == "4096"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_terminal_gets_its_lines(tmp_path: Path, encoding: str) -> None:
    root = tmp_path / "röt"
    make_files(root)
    env = environment() | {"PYTHONIOENCODING": encoding}
    flags = ["--root", str(root), "--state-dir", str(tmp_path / "stäte")]
    for action in ("--apply", "--persist", "--revert", "--check"):
        command = [sys.executable, "-m", "fastkv", "tune-kernel", action, *flags]
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, check=False)
        assert b"Traceback" not in done.stderr
        assert done.returncode == (action == "--check")
        assert done.stdout


def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    make_files(tmp_path)
    for form in ("--check", "--json"):
        command = [sys.executable, "-m", "fastkv", "tune-kernel", form, "--root", str(tmp_path)]
        reader, writer = os.pipe()
        os.close(reader)
        try:
            done = subprocess.run(
                command, env=environment(), cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, check=False
            )
        finally:
            os.close(writer)
        assert b"Traceback" not in done.stderr


def test_what_cannot_be_told_is_no_traceback(tmp_path: Path) -> None:
    make_files(tmp_path)
    command = [sys.executable, "-m", "fastkv", "tune-kernel", "--root", str(tmp_path)]
    for form in ([], ["--check"], ["--json"]):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [*command, *form],
                env=environment(),
                cwd=ROOT,
                stdout=full,
                stderr=subprocess.PIPE,
                check=False,
            )
        assert done.returncode == 1
        assert b"the result cannot be shown (No space left on device).\n" in done.stderr
        assert b"Traceback" not in done.stderr


def test_another_root_has_a_record_of_its_own(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_files(tmp_path / name)
        # The same boot: in one record they would be taken for each other.
        assert tune("--apply", "--root", tmp_path / name).code == 0
    for name in ("one", "two"):
        assert (tmp_path / name / "var/lib/fastkv" / f"tuning-{BOOT_ID}.json").exists()
        assert tune("--revert", "--root", tmp_path / name).code == 0
        assert Tree(tmp_path / name).read(path_of(SOMAXCONN)) == "4096"


def test_what_can_be_done_next_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_files(tmp_path)
    flags = ("--root", tmp_path, "--state-dir", tmp_path / "state", "--json")
    assert tune(*flags).json["notes"] == [
        "fastkv tune-kernel --apply changes 5 settings, --revert undoes it."
    ]
    (note,) = tune("--profile", "ultrafast", *flags).json["notes"]
    assert note.startswith("fastkv tune-kernel --profile ultrafast --apply changes 1")
    monkeypatch.setattr(Tree, "is_writable", lambda self, path: False)
    assert tune(*flags).json["notes"] == (
        [] if os.geteuid() == 0 else ["What is not permitted here may be to root."]
    )
    first, *_ = tune("--apply", *flags).json["notes"]
    assert first.startswith("Nothing that may be changed from here. Profile recommended: not as wanted are ")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert tune(*flags).json["notes"] == ["What is not permitted here may be to root."]
    assert tune("--apply", *flags).json["notes"][1:] == ["What is not permitted here may be to root."]


def test_changes_are_lines_and_risks_are_told(tmp_path: Path) -> None:
    make_files(tmp_path)
    flags = ("--root", tmp_path, "--state-dir", tmp_path / "state")
    for out in (None, Screen()):
        applied = tune("--apply", "--profile", "ultrafast", *flags, out=out, COLUMNS="80", TERM="dumb")
        lines = applied.out.splitlines()
        assert f"{SOMAXCONN}: 4096 → 131072" in lines
        assert "net.ipv4.tcp_mem: 287901 383868 575802 → 786432 1048576 1572864" in lines
        risks = [line for line in lines if line.startswith("Risky, ")]
        assert len(risks) == 8
        assert (
            "Risky, net.ipv4.tcp_syncookies: Without SYN cookies a few thousand forged packets a second "
            "keep every client out."
        ) in risks
        assert lines[-1] == "Profile ultrafast: everything is as wanted or better."
        again = tune("--apply", "--profile", "ultrafast", *flags)
        assert again.out.splitlines()[-1] == (
            "Nothing to change. Profile ultrafast: everything is as wanted or better."
        )
        undone = tune("--revert", *flags).out.splitlines()
        assert f"{SOMAXCONN}: 131072 → 4096" in undone
    assert tune("--revert", *flags).out == "Of this boot and network namespace no change is on record.\n"


def test_the_state_of_an_older_boot_is_not_restored(tmp_path: Path) -> None:
    tree = make_files(tmp_path)
    flags = ("--root", tmp_path, "--state-dir", tmp_path / "state")
    assert tune("--apply", *flags).code == 0
    now = tree.read(path_of(SOMAXCONN))
    (tmp_path / "proc/sys/kernel/random/boot_id").write_text("11111111-2222-3333-4444-555555555555\n")
    assert tune("--revert", "--json", *flags).json["changes"] == []
    assert tree.read(path_of(SOMAXCONN)) == now
    shutil.rmtree(tmp_path / "state")
