"""The core's own hashes, beside those of the package."""

from random import Random

import pytest
from xxhash import xxh3_64_intdigest, xxh32_digest

from fastkv import core

pytestmark = pytest.mark.skipif(not core.COMPILED, reason=core.REASON)

SEEDS = (0, 1, 2**64 - 1, Random(3).getrandbits(64))
# Every length that has a way of its own, and the package's beyond them.
SHORT = range(1001)


def random_data() -> list[bytes]:
    """One of each length, then random longer ones."""
    random = Random(5)
    return [random.randbytes(n) for n in (*SHORT, *(random.randrange(1001, 1 << 20) for _ in range(20)))]


DATA = random_data()


@pytest.mark.parametrize("seed", SEEDS)
def test_keys_hash_as_the_package_says(seed: int) -> None:
    assert [core.hashing.xxh3_64(key, seed) for key in DATA] == [xxh3_64_intdigest(key, seed) for key in DATA]


def test_checksums_are_the_packages() -> None:
    assert [core.hashing.xxh32(data) for data in DATA] == [xxh32_digest(data) for data in DATA]


@pytest.mark.parametrize("byte", [b"\0", b"\xff"])
def test_checksums_of_one_byte_repeated_are_the_packages(byte: bytes) -> None:
    for data in map(byte.__mul__, SHORT):
        assert core.hashing.xxh3_64(data, SEEDS[-1]) == xxh3_64_intdigest(data, SEEDS[-1])
        assert core.hashing.xxh32(data) == xxh32_digest(data)
