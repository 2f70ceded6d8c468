"""The commands: Redis' string commands over the store, for every wire and of none.

In: the words of a command, as bytes. Out: a reply, as `fastkv.commands.replies` has them. A wire translates
both. Layers, each importing only those below it: ``execute`` → the families (``strings``, ``bits``,
``counters``, ``expiry``, ``keys``, ``keyspace``, ``server``, ``transactions``) → ``table``/``failures`` →
``context`` → ``session``/``glob``/``floats``/``arguments`` → ``replies``.
"""
