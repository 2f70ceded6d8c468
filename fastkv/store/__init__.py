"""The store: a sharded key-value arena in shared memory.

It knows no wire and no clock: keys and values are bytes, time is an argument. Layers, each importing
only those below it: ``store`` → ``reading``/``eviction``/``check`` → ``repair`` → ``shard`` → ``log`` →
``index``/``segments`` → ``records`` → ``layout``/``lock``.
"""

from fastkv.store.reading import Entry
from fastkv.store.store import Store

__all__ = ["Entry", "Store"]
