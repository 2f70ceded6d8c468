"""What every measurement writes down: figures with how many there were and how they spread, and where.

A result is a JSON file in ``results``; ``tables`` makes of it what the documents show.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ROOT: Final = Path(__file__).parent.parent
RESULTS: Final = ROOT / "perf" / "results"

_LONG_PAUSE_NS: Final = 5_000_000


def summary(values: Sequence[float]) -> dict[str, float]:
    """Sum up repeated measurements of one thing.

    Args:
        values: at least one.

    Returns:
        ``n``, ``median``, and as spread the ``lower`` and the ``upper`` quartile.
    """
    lower = median = upper = values[0]
    if len(values) > 1:
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return {"n": len(values), "median": median, "lower": lower, "upper": upper}


def pauses(nanoseconds: Sequence[int]) -> dict[str, float]:
    """Sum up how long a step took each time.

    Args:
        nanoseconds: each time, at least one.

    Returns:
        ``n``, ``median_ms``, ``p999_ms``, ``max_ms``, and ``over_5_ms``: how many took longer than that.
    """
    return {
        "n": len(nanoseconds),
        "median_ms": statistics.median(nanoseconds) / 1e6,
        "p999_ms": sorted(nanoseconds)[len(nanoseconds) * 999 // 1000] / 1e6,
        "max_ms": max(nanoseconds) / 1e6,
        "over_5_ms": sum(each > _LONG_PAUSE_NS for each in nanoseconds),
    }


def circumstances(packages: Iterable[str] = ()) -> dict[str, Any]:
    """What the figures depend on.

    Args:
        packages: Python packages beside fastkv's own whose versions matter.

    Returns:
        machine, python, commit and versions.
    """
    wanted = ["uvloop", "xxhash", "orjson", *packages]
    return {
        "machine": _machine(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "commit": _commit(),
        "versions": {name: version for name in wanted if (version := version_of(name))},
    }


def version_of(package: str) -> str | None:
    """The version of an installed Python package, None if it is not."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _machine() -> str:
    processor = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.split(":", 1)[1].strip()
            break
    return f"{os.cpu_count()} CPUs, {processor}, Linux {platform.release()}"


def _commit() -> str:
    """The commit that last changed the package, "+" behind it if it has been changed since."""

    def git(*command: str) -> str:
        done = subprocess.run(
            ["git", "-C", ROOT, *command, "--", "fastkv"], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    return git("log", "-1", "--format=%h") + ("+" if git("status", "--porcelain") else "")


def save(name: str, packages: Iterable[str] = (), **figures: object) -> Path:
    """Write a result.

    Args:
        name: of the file, without its suffix.
        packages: as for ``circumstances``.
        **figures: what was measured.

    Returns:
        Where it stands now.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    result = {**circumstances(packages), **figures}
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return path


def load(path: Path) -> dict[str, Any]:
    """Read a result."""
    result: dict[str, Any] = json.loads(path.read_text())
    return result
