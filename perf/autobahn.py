"""The Autobahn|Testsuite: all that its fuzzing client does, against the echo server of the tests.

    python -m perf.autobahn --python python2.7 --suite DIR [--save]

Runs it twice, with compression on offer and without, prints the cases that are not as strict as they might
be, and how many were how in each group. With ``--save`` this becomes ``perf/results/autobahn.json``. Exits
with 1 if a case has failed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Final

from perf.report import ROOT, save

# 11 is not there, and 8 is empty.
_GROUPS: Final = ("1", "2", "3", "4", "5", "6", "7", "9", "10", "12", "13")
# Of the last two: nothing was expected, or nothing could be, for compression was not on offer.
_GOOD: Final = frozenset(("OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED"))
_PATIENCE_SECONDS: Final = 3600
_RUN: Final = (
    "import sys; from autobahntestsuite.wstest import run; "
    "sys.argv[1:1] = ['-m', 'fuzzingclient', '-s']; run()"
)

Cases = dict[str, dict[str, Any]]


def main() -> int:
    """Run and tell.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="perf.autobahn")
    parser.add_argument("--python", default="python2.7", help="a Python 2.7")
    parser.add_argument(
        "--suite", type=Path, required=True, help="where autobahntestsuite is installed for it"
    )
    parser.add_argument("--groups", default=",".join(_GROUPS))
    parser.add_argument("--save", action="store_true")
    chosen = parser.parse_args()
    rows: list[dict[str, Any]] = []
    failed = 0
    for name, options in (("deflate", []), ("plain", ["--plain"])):
        cases = _run(chosen.python, chosen.suite, chosen.groups.split(","), options)
        rows += _rows(name, cases)
        for case, found in cases.items():
            behaviours = {found["behavior"], found["behaviorClose"]}
            failed += not behaviours <= _GOOD
            if not behaviours <= {"OK", "INFORMATIONAL", "UNIMPLEMENTED"}:
                print(f"{name}: {case}: {found['behavior']}, close {found['behaviorClose']}")
    for row in rows:
        print(f"{row['offer']}: group {row['group']}: {row['cases']} {row['behaviour']}")
    if chosen.save:
        suite = _ask(chosen.python, chosen.suite, "import autobahntestsuite as a; print(a.__version__)")
        print(save("autobahn", ["websockets"], suite=suite, failed=failed, rows=rows))
    return 1 if failed else 0


def _run(python: str, suite: Path, groups: list[str], options: list[str]) -> Cases:
    """Let the suite's client loose on an echo server; what it reports of each case."""
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    with (
        tempfile.TemporaryDirectory() as directory,
        subprocess.Popen(
            [sys.executable, "-m", "ws_echo", *options],
            env={**os.environ, "PYTHONPATH": paths},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as server,
    ):
        assert server.stdin is not None
        assert server.stdout is not None
        spec = Path(directory, "spec.json")
        address = f"ws://127.0.0.1:{int(server.stdout.readline())}/"
        spec.write_text(
            json.dumps(
                {
                    "outdir": directory,
                    "servers": [{"agent": "fastkv", "url": address}],
                    "cases": [f"{group}.*" for group in groups],
                    "exclude-cases": [],
                    "exclude-agent-cases": {},
                }
            )
        )
        try:
            _ask(python, suite, _RUN, str(spec))
        finally:
            server.stdin.close()
        cases: Cases = json.loads(Path(directory, "index.json").read_text())["fastkv"]
    return cases


def _ask(python: str, suite: Path, code: str, *arguments: str) -> str:
    """Run code where the suite is installed; what it prints, or the end of what it said of a failure."""
    done = subprocess.run(
        [python, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(suite)},
        capture_output=True,
        text=True,
        timeout=_PATIENCE_SECONDS,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{python}: {done.stderr[-2000:]}")
    return done.stdout.strip()


def _rows(offer: str, cases: Cases) -> list[dict[str, Any]]:
    """How many cases of each group were how: as they should be, and at the close where that was otherwise."""
    counts: Counter[tuple[str, str]] = Counter()
    for case, found in sorted(cases.items(), key=lambda item: [int(part) for part in item[0].split(".")]):
        how = found["behavior"]
        if found["behaviorClose"] not in (how, "OK", "INFORMATIONAL"):
            how += f", close {found['behaviorClose']}"
        counts[case.partition(".")[0], how] += 1
    return [
        {"offer": offer, "group": group, "behaviour": how, "cases": count}
        for (group, how), count in counts.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
