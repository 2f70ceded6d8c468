# Each module includes this: the hash of what it was made from (sources.py), which setup.py defines.
cdef extern from *:
    const char *FASTKV_CORE_SOURCES

SOURCES = FASTKV_CORE_SOURCES.decode()
