# cython: language_level=3, embedsignature=True
"""The hashes of `hashing.pxd` as Python functions, with which tests compare them to the package's."""

include "sources.pxi"

from xxhash import xxh3_64_intdigest

from libc.stdint cimport uint32_t, uint64_t


def xxh3_64(key: bytes, uint64_t seed):
    """Return the 64-bit XXH3 of a key; the package hashes what is longer than `LONGEST_HASHED` bytes."""
    if len(key) > LONGEST_HASHED:
        return xxh3_64_intdigest(key, seed)
    return hash_short(key, len(key), seed)


def xxh32(data: bytes):
    """Return the four bytes of the XXH32 of data, in the order in which a record stores them."""
    cdef uint32_t word = checksum(data, len(data))
    return (<char *> &word)[:sizeof(word)]
