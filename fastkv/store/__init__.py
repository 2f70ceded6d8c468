"""The store: a sharded key-value arena in shared memory.

It knows no wire and no clock: keys and values are bytes, time is an argument. Layers, each importing
only those below it: ``store`` → ``eviction``/``repair``/``check`` → ``shard`` → ``index``/``segments`` →
``records`` → ``layout``/``lock``.
"""

from fastkv.store.store import Entry, Store

__all__ = ["Entry", "Store"]
