"""Fuzzing: harnesses, each a `check` that takes any bytes and raises for a wrong outcome.

    python -m fuzz SECONDS            # parsers and connection at once, with tests/ on the path
    python -m fuzz core SECONDS       # those of the compiled core: text, headers, http, commands and frames
    python -m fuzz parsers FILE       # one input again
    python -m fuzz compare CASES      # no fuzzer: random requests to the compiled path and the readable one

An input is a seed of two bytes, for the cuts of the stream in reads and for other choices, and the stream
itself.
"""

import random
from collections.abc import Sequence

SEED_BYTES = 2


def unpack(data: bytes) -> tuple[random.Random, bytes]:
    """Return the generator of choices, and the stream."""
    return random.Random(data[:SEED_BYTES]), data[SEED_BYTES:]


def cut(rng: random.Random, stream: bytes) -> Sequence[bytes]:
    """Cut a stream in reads: in a few pieces, or in very many."""
    if len(stream) < 2:
        return [stream] if stream else []
    most = len(stream) if rng.random() < 0.1 else min(len(stream), 6)
    bounds = sorted(rng.sample(range(1, len(stream)), rng.randrange(most)))
    return [stream[start:end] for start, end in zip([0, *bounds], [*bounds, len(stream)], strict=True)]
