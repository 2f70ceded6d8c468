"""What a request costs the server, beside other servers, in one run: ``make bench``.

``servers`` says who takes part and ``workloads`` what they are asked; ``fleet`` starts and fills them,
``driver`` asks them, ``rounds`` lets them take turns. ``native`` holds what is written in C (the load
generator, and the ceiling that no server gets below), ``apps`` the servers that are programs of our own.
"""
