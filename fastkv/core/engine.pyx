# cython: language_level=3
"""A placeholder of the engine."""

include "sources.pxi"
