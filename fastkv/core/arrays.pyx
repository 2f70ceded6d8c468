# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: nonecheck=False, embedsignature=True, auto_pickle=False, autotestdict=False
"""Arrays of many strings, as replies have them, in JSON and in RESP2.

In: the parts of a reply. Out: what ``fastkv.jsonwire`` and ``fastkv.ws.resp`` make of them, byte for byte;
None for what is left to these: parts other than strings and nothing, strings that are not UTF-8 in JSON,
and arrays that are long in bytes.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from fastkv.core.memory cimport put_bytes
from fastkv.core.text cimport escape, put_decimal

include "sources.pxi"

cdef enum:
    # What an array may take at most.
    MOST_BYTES = 1 << 22
    # A byte in JSON at most, as \u001f.
    ESCAPED_BYTES = 6
    # What stands around a string in JSON, or for none: two quotes, a comma; null and a comma.
    JSON_BYTES = 5
    # The same in RESP2: $, 20 digits, two ends of lines.
    RESP_BYTES = 25


cdef Py_ssize_t room_for(list parts, Py_ssize_t each, Py_ssize_t factor) noexcept:
    """How many bytes an array may take; -1 if it is left to the readable one.

    Args:
        parts: its parts.
        each: what stands around one of them.
        factor: how long a byte of a string may become.
    """
    cdef Py_ssize_t room = each
    cdef object part
    for part in parts:
        room += each
        if type(part) is bytes:
            room += factor * PyBytes_GET_SIZE(part)
        elif part is not None:
            return -1
        if room > MOST_BYTES:
            return -1
    return room


cdef Py_ssize_t put_json(list parts, uint8_t *begin) noexcept:
    """Write an array in JSON, for which there is room; the bytes written, -1 if a string is not UTF-8."""
    cdef uint8_t *out = begin
    cdef Py_ssize_t size
    cdef object part
    out[0] = c"["
    out += 1
    for part in parts:
        if part is None:
            memcpy(out, b"null", 4)
            out += 4
        else:
            size = escape(<const uint8_t *> PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part), out + 1)
            if size < 0:
                return -1
            out[0] = c'"'
            out[size + 1] = c'"'
            out += size + 2
        out[0] = c","
        out += 1
    # In the place of the last comma, if there is one.
    out -= out - begin > 1
    out[0] = c"]"
    return out + 1 - begin


cdef Py_ssize_t put_resp(list parts, uint8_t *begin) noexcept:
    """Write strings in RESP2, one behind the other, for which there is room; the bytes written."""
    cdef uint8_t *out = begin
    cdef object part
    for part in parts:
        out[0] = c"$"
        out += 1
        if part is None:
            out = put_bytes(out, b"-1", 2)
        else:
            out += put_decimal(out, PyBytes_GET_SIZE(part))
            out = put_bytes(out, b"\r\n", 2)
            out = put_bytes(out, <const uint8_t *> PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part))
        out = put_bytes(out, b"\r\n", 2)
    return out - begin


cdef bytes written(list parts, bint in_json):
    """An array as it was written; None if it was not."""
    cdef Py_ssize_t size = -1
    cdef Py_ssize_t room = (
        room_for(parts, JSON_BYTES, ESCAPED_BYTES) if in_json else room_for(parts, RESP_BYTES, 1)
    )
    cdef uint8_t *out
    if room < 0:
        return None
    out = <uint8_t *> malloc(room)
    if out == NULL:
        raise MemoryError
    try:
        size = put_json(parts, out) if in_json else put_resp(parts, out)
        return PyBytes_FromStringAndSize(<const char *> out, size) if size >= 0 else None
    finally:
        free(out)


def json_array(list parts not None) -> bytes:
    """Write strings as JSON, with null for None.

    Args:
        parts: the strings as UTF-8.

    Returns:
        The array, with its brackets; None if it is left to orjson.
    """
    return written(parts, True)


def bulk_strings(list parts not None) -> bytes:
    """Write strings as RESP2's bulk strings, one behind the other.

    Args:
        parts: the strings, None for nothing.

    Returns:
        What stands behind the array's header; None if it is left to ``build_reply``.
    """
    return written(parts, False)
