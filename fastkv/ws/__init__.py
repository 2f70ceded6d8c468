"""WebSockets (RFC 6455) on ``/ws``: text frames carry JSON, binary frames RESP2.

In: the transport of a connection that asked for an upgrade. Out: replies as frames. Layers, each importing
only those below it: ``session`` (what messages on ``/ws`` do) → ``websocket`` (frames, bounds, deadlines, the
end), ``handshake`` (what is agreed), ``text`` and ``resp`` (what messages say) → ``asker``, ``frames``.

An own short way reads what clients send all the time: whole, masked, uncompressed frames of text or bytes.
Everything else, errors first of all, goes through the sans-I/O protocol of `websockets`.
"""
