"""What is shown: a table where it fits, lines where it does not, and keys that the documents name."""

import re
from pathlib import Path
from typing import Any

import pytest
from kernel_helpers import Screen, make_files, make_read_only, memory_path, namespaced, tune
from server import ROOT

from fastkv.kernel.plan import Verdict
from fastkv.kernel.profile import PROFILES

tmp_path = memory_path

TUNING = (ROOT / "docs/tuning.md").read_text(encoding="utf-8")
HEADS = ["setting", "current", "wanted", "verdict", "scope", "why"]


def show(root: Path, *flags: str, columns: int = 0) -> list[str]:
    """The lines of a table, on a terminal of some columns, or in a pipe."""
    make_files(root)
    out = Screen() if columns else None
    variables = {"COLUMNS": str(columns), "TERM": "xterm", "NO_COLOR": "1"} if columns else {}
    ran = tune(*flags, "--root", root, "--state-dir", root / "state", out=out, **variables)
    assert ran.err == ""
    return re.sub(r"\x1b\[[0-9;]*m", "", ran.out).splitlines()


@pytest.mark.parametrize("columns", [0, 200, 300])
@pytest.mark.parametrize("profile", PROFILES)
def test_wide_terminals_and_pipes_get_a_line_for_each_setting(
    tmp_path: Path, profile: str, columns: int
) -> None:
    lines = show(tmp_path, "--profile", profile, columns=columns)
    assert lines[0].split() == HEADS
    starts = [lines[0].index(head) for head in HEADS]
    rows = tune("--json", "--profile", profile, "--root", tmp_path).json
    everything = [*rows["settings"], *rows["limits"]]
    if columns != 200:  # there a long reason may take a second line
        assert len(lines[1:23]) == len(everything)
    found = [line for line in lines[1:] if re.match(r"\S", line)][: len(everything)]
    for line, row in zip(found, everything, strict=True):
        cells = [line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)]
        assert cells[0] == row["name"]
        assert cells[1] == ("-" if row["current"] is None else row["current"] or "empty")
        assert cells[2] == ("-" if row["wanted"] is None else row["wanted"] or "empty")
        assert cells[3:5] == [row["verdict"], row["scope"]]
        assert row["why"] == cells[5] if columns != 200 else row["why"].startswith(cells[5][:20])
    if columns:
        until = lines.index("") if "" in lines else len(lines)  # lines to copy may be longer
        assert max(map(len, lines[:until])) <= columns


def test_a_pipe_keeps_a_line_for_each_setting_whatever_the_values(tmp_path: Path) -> None:
    ports = ",".join(str(10_001 + 2 * number) for number in range(100))
    make_files(tmp_path, ip_local_reserved_ports=ports)
    for columns in (0, 160):
        lines = tune("--root", tmp_path, out=Screen() if columns else None, COLUMNS=str(columns)).out
        names = re.findall(r"^(?:\x1b\[\d+m)?([a-z]\w*\.[\w.-]+) ", lines, re.MULTILINE)
        assert len(set(names)) == 20
        (line,) = (line for line in lines.splitlines() if "ip_local_reserved_ports  " in line)
        assert "10001,10003,10005,10007,100… 7171,10001,10003,10005,1000…" in " ".join(line.split())
    assert ports in tune("--json", "--root", tmp_path).out


@pytest.mark.parametrize("columns", [40, 80, 120, 159])
@pytest.mark.parametrize("profile", PROFILES)
def test_narrow_terminals_get_lines_that_fit(tmp_path: Path, profile: str, columns: int) -> None:
    lines = show(tmp_path, "--check", "--profile", profile, columns=columns)
    rows = tune("--json", "--profile", profile, "--root", tmp_path).json
    everything = [*rows["settings"], *rows["limits"]]
    text = " ".join(" ".join(lines).split())
    for row in everything:
        assert f"{row['name']} {row['verdict']} {row['scope']}" in text
        assert row["why"] in text
    body = lines[:-1]  # the last is a sentence, which a terminal folds by itself
    assert max(map(len, body)) <= columns
    if columns >= 80:
        heads = [line for line in body if re.match(r"\S", line)]
        assert len(heads) == len(everything)
    assert "4096 → 131072" in text if profile == "ultrafast" else "4096 → 16384" in text


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_is_in_the_documents(verdict: Verdict) -> None:
    assert f"| {verdict} |" in TUNING


def test_colours_are_for_terminals_alone(tmp_path: Path) -> None:
    make_files(tmp_path)
    for flags in ((), ("--check",), ("--apply",), ("--revert",), ("--json",)):
        ran = tune(*flags, "--root", tmp_path, "--state-dir", tmp_path / "state")
        assert "\x1b" not in ran.out
    shown = tune("--root", tmp_path, out=Screen(), TERM="xterm-256color", COLUMNS="200")
    assert "\x1b[" in shown.out


def test_lines_to_copy_are_not_broken(tmp_path: Path) -> None:
    @namespaced
    def inside() -> None:
        make_read_only("/proc/sys")
        flags = ("--profile", "ultrafast", "--state-dir", tmp_path)
        for out in (None, Screen()):
            ran = tune(*flags, out=out, COLUMNS="80", TERM="dumb")
            lines = ran.out.splitlines()
            (docker,) = (line for line in lines if line.startswith("  docker run "))
            assert docker.count("--sysctl ") == 13
            assert '  sysctl -w net.ipv4.tcp_mem="786432 1048576 1572864"' in lines
            assert "Only the host can set, as root:" in lines
            assert '    net.ipv4.tcp_rmem: "4096 87380 6291456"' in lines
            assert "      - name: net.ipv4.tcp_rmem" in lines
            (unsafe,) = (line for line in lines if "--allowed-unsafe-sysctls" in line)
            assert "net.core.somaxconn" in unsafe
            assert "net.ipv4.tcp_rmem" not in unsafe

    inside()


def keys_of(value: Any) -> set[str]:
    """Every key of a report; the names of settings are none."""
    if isinstance(value, dict):
        found = {key for key in value if not key.startswith("net.")}
        return found.union(*map(keys_of, value.values())) if value else found
    return set().union(*map(keys_of, value)) if isinstance(value, list) else set()


def test_every_key_of_the_json_is_in_the_documents(tmp_path: Path) -> None:
    make_files(tmp_path)
    flags = ("--root", tmp_path, "--state-dir", tmp_path / "state", "--json")
    reports = [tune(*action, *flags).json for action in ((), ("--apply", "--persist"), ("--revert",))]
    keys = keys_of(reports)
    assert len(keys) > 20
    section = TUNING.split("## JSON")[1]
    assert keys - set(re.findall(r"`(\w+)`", section)) == set()


def test_what_stands_in_quotes_in_the_documents_about_json_exists(tmp_path: Path) -> None:
    make_files(tmp_path)
    report = tune("--apply", "--json", "--root", tmp_path, "--state-dir", tmp_path / "state").json
    keys = keys_of(report)
    table = [line for line in TUNING.split("## JSON")[1].splitlines() if line.startswith("| `")]
    assert {re.findall(r"`(\w+)`", line)[0] for line in table} <= keys
