"""The store: a sharded key-value arena in shared memory.

It knows no wire and no clock: keys and values are bytes, time is an argument. Layers, each importing only
those below it: ``migrate`` → ``store`` → ``transactions`` → ``transaction`` →
``update``/``together``/``picking``/``commit``/``restore`` → ``room`` →
``reading``/``scan``/``eviction``/``check``/``attach`` → ``repair`` → ``shard``/``verify``/``redo`` →
``log``/``walk`` → ``index``/``segments`` → ``records``/``persist`` → ``layout``/``lock``.
"""

from fastkv.store.reading import Entry
from fastkv.store.records import MAX_METADATA_BYTES
from fastkv.store.scan import Scanned
from fastkv.store.store import Store
from fastkv.store.transaction import Transaction
from fastkv.store.update import DELETE, LEAVE, Change, Decide, Retime, new_value

__all__ = [
    "DELETE",
    "LEAVE",
    "MAX_METADATA_BYTES",
    "Change",
    "Decide",
    "Entry",
    "Retime",
    "Scanned",
    "Store",
    "Transaction",
    "new_value",
]
