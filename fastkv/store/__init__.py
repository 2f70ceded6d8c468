"""The store: a sharded key-value arena in shared memory.

It knows no wire and no clock: keys and values are bytes, time is an argument. Layers, each importing only
those below it: ``migrate`` → ``store`` → ``transactions`` → ``transaction`` → ``engine``/``update`` →
``multi_get``/``picking``/``commit``/``restore`` → ``room``/``checked_reader`` →
``reading``/``scan``/``eviction``/``check``/``attach`` → ``repair`` → ``shard``/``verify``/``redo`` →
``log``/``walk`` → ``index``/``segments`` → ``records``/``persist`` → ``arena``/``lock`` → ``layout``.

The rest of fastkv imports the names below, and nothing of ``layout`` and ``arena``: only the store knows slot
words.
"""

from fastkv.store.layout import LAYOUT_VERSION, Geometry
from fastkv.store.reading import Entry
from fastkv.store.records import MAX_METADATA_BYTES
from fastkv.store.scan import Page, Scanned
from fastkv.store.store import Store
from fastkv.store.transaction import Transaction
from fastkv.store.update import DELETE, LEAVE, Change, Decide, Retime, new_value

__all__ = [
    "DELETE",
    "LAYOUT_VERSION",
    "LEAVE",
    "MAX_METADATA_BYTES",
    "Change",
    "Decide",
    "Entry",
    "Geometry",
    "Page",
    "Retime",
    "Scanned",
    "Store",
    "Transaction",
    "new_value",
]
