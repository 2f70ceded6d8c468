"""The store alone, without sockets: what an operation costs, beside others, and where that goes."""
