"""The store, parsers and replies, without sockets: what each costs, beside others, and where that goes."""
