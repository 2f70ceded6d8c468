"""What the compiled core is made from, and its hash, so that a module made from something else is never used.

It imports nothing of fastkv: the build runs it as it is.
"""

from functools import cache
from hashlib import sha256
from pathlib import Path

_CORE = Path(__file__).parent
# The core reads and writes what these describe.
_LAYOUT = (_CORE.parent / "store" / "layout.py", _CORE.parent / "store" / "records.py")


def module_names() -> list[str]:
    """Return the names of the core's modules: one for each .pyx."""
    return sorted(path.stem for path in _CORE.glob("*.pyx"))


def sources_hash(name: str) -> str:
    """Return the hash of what a module is made from: its .pyx, what the modules share, and the layout.

    Args:
        name: one of `module_names`.
    """
    return sha256(_shared() + _described(_CORE / f"{name}.pyx")).hexdigest()[:16]


@cache
def _shared() -> bytes:
    shared = sorted(path for ending in ("h", "pxd", "pxi") for path in _CORE.glob(f"*.{ending}"))
    return b"".join(map(_described, (*shared, *_LAYOUT)))


def _described(path: Path) -> bytes:
    return sha256(path.name.encode() + b"\0" + path.read_bytes()).digest()
