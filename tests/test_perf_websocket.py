"""The measurement of commands over WebSockets: every kind is answered as it has to be, and is told apart."""

import re

import ws_frames

from perf.websocket import KINDS, RATIOS, frame, run


def test_frames_are_those_of_a_client() -> None:
    for said, payload in ((["GET", "k"], b'["GET","k"]'), (b"x" * 300, b"x" * 300)):
        built = frame(said, 0x82)
        at = len(built) - len(payload)
        mask = built[at - 4 : at]
        assert built == ws_frames.frame(ws_frames.BINARY, payload, mask=mask)


def test_a_short_run() -> None:
    costs, ratios = run(1, 640)
    assert list(costs) == [kind.name for kind in KINDS]
    assert min(min(values) for values in costs.values()) > 0
    assert list(ratios) == [f"{one} / {other}" for one, other in RATIOS]
    assert all(re.search(r"\bJSON\b|\bRESP2\b", name) for name in ratios)
