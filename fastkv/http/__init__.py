"""HTTP/1.1 as a pure function of bytes: requests in, replies out, no socket and no clock.

A request goes through `fast` or, where that declines, through `full`; both hand over what `request` defines
and validates. `urlform` decodes the query of the target and `responses` builds what goes back.
"""
