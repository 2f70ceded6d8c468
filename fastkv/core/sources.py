"""A hash of what the compiled core is made from, so that a stale one is never used."""

from hashlib import sha256
from pathlib import Path

_CORE = Path(__file__).parent
_LAYOUT = (_CORE.parent / "store" / "layout.py", _CORE.parent / "store" / "records.py")


def sources_hash() -> str:
    """Return the hash of the core's sources and of the layout that they were written for."""
    digest = sha256()
    for path in sorted((*_CORE.glob("*.pyx"), *_CORE.glob("*.pxd"), *_CORE.glob("*.h"), *_LAYOUT)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
