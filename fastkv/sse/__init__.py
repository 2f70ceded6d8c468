"""Server-Sent Events (WHATWG HTML, 9.2): subscriptions as a stream of events over HTTP, as Upstash has them.

``handlers`` answers the request, ``stream`` is what then has the transport, ``format`` has the bytes.
"""
