"""Snapshots: all entries in one portable file, and back again.

Layers, each importing only those above it: ``format`` (bytes) ← ``transfer`` (a store), ``local`` (a data
directory), ``remote`` (a running server), ``file`` ← ``copying`` ← ``command``.
"""
