"""What fastkv holds to be HTTP/1.1: bytes, what has to come of them, and where it is written.

The tables are read by `test_conformance` (both parsers, the connection, a real server), and they are what the
fuzzers begin with. A name says what is peculiar and is unique.
"""

from cases import chunks, clients, connections, fields, lengths, lines, targets
from cases.case import Case

CASES: tuple[Case, ...] = (
    clients.CASES
    + lines.CASES
    + targets.CASES
    + fields.CASES
    + connections.CASES
    + lengths.CASES
    + chunks.CASES
)
