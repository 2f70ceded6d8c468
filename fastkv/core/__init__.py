"""The compiled core: what each request pays for, in Cython over the arena of `fastkv.store`.

It imports nothing of fastkv but the numbers of the arena's layout, which it compares with its own. The
readable Python is its specification, and does what the core declines. docs/core.md is the guide to it.

Python code takes the modules from here. Either all of them are used or none: each is `None` where one is
missing, was built from other sources than those beside it, or cannot be loaded, and where FASTKV_PURE is set.
`COMPILED` says whether they are used, `REASON` why not, in one sentence.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Final

from fastkv.core.sources import module_names, sources_hash

if TYPE_CHECKING:
    from fastkv.core import arrays as arrays
    from fastkv.core import changes as changes
    from fastkv.core import commands as commands
    from fastkv.core import engine as engine
    from fastkv.core import fragments as fragments
    from fastkv.core import frames as frames
    from fastkv.core import framing as framing
    from fastkv.core import hashing as hashing
    from fastkv.core import headers as headers
    from fastkv.core import http as http
    from fastkv.core import many as many
    from fastkv.core import pages as pages
    from fastkv.core import receiver as receiver
    from fastkv.core import sweep as sweep
    from fastkv.core import text as text
    from fastkv.core import verify as verify
    from fastkv.core import walk as walk

PURE_VARIABLE: Final = "FASTKV_PURE"
"""The environment variable that forces the readable Python; empty and 0 do not."""

_AGAIN = "install fastkv again, or in a checkout: make core"


FORCED: Final = os.environ.get(PURE_VARIABLE, "0") not in ("", "0")
"""Whether that variable asks for the readable Python."""


def _load() -> str:
    """Import the modules.

    Returns:
        Why they cannot be used; "" where they can.
    """
    if FORCED:
        return f"{PURE_VARIABLE} is set."
    for name in module_names():
        path = f"{__name__}.{name}"
        try:
            module = import_module(path)
        except ModuleNotFoundError as error:
            if error.name != path:
                return f"{path} needs {error.name}, which is not installed."
            return (
                f"{path} is not built, for want of a C compiler or of Python.h (on Debian and Ubuntu: "
                f"apt-get install gcc libc6-dev python3-dev); {_AGAIN}."
            )
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            return f"{path} cannot be loaded ({error}); {_AGAIN}."
        if getattr(module, "SOURCES", "") != sources_hash(name):
            return f"{path} was built from other sources than those beside it; {_AGAIN}."
    return ""


REASON: Final = _load()
"""Why the readable Python runs, as one sentence; "" where the compiled core does."""

COMPILED: Final = not REASON
"""Whether the modules of the core are there to be used."""

IMPLEMENTATION: Final = "compiled" if COMPILED else "readable"
"""Which one runs, in a word."""

if not COMPILED:
    # Those that were imported before one was refused are attributes of the package already.
    globals().update(dict.fromkeys(module_names()))
