"""The core's header sections against the readable parser, new ones and ones that were read before."""

from functools import cache

from test_core_headers import GUARDED, OPEN, VERSION, sections
from test_core_headers import check as check_section

from fastkv.core.headers import Sections
from fastkv.http.fields import Route
from fuzz import unpack

_ROUTES = list(Route)
_POLICIES = (OPEN, GUARDED)


@cache
def _known(guarded: bool) -> Sections:
    return sections(_POLICIES[guarded])


def check(data: bytes) -> None:
    """Raise where the core and the readable parser differ.

    Args:
        data: The input: what follows a target. The seed chooses the route and the access rules.
    """
    rng, stream = unpack(data)
    guarded = rng.random() < 0.3
    check_section(_known(guarded), VERSION + stream, rng.choice(_ROUTES), _POLICIES[guarded])
