"""Hosts and origins, as URLs and browsers write them.

In: the text of a Host, an Origin or a setting. Out: the same in one normal form, so that two that mean the
same are equal, or None where the text is none. Nothing is raised.
"""

import ipaddress
import re
from typing import Final
from urllib.parse import unquote

DEFAULT_PORTS: Final = {"http": 80, "https": 443}
"""Ports that an origin leaves out (RFC 6454, 6.2)."""

# Of a name only what URLs need no escapes for: any other script comes as punycode.
_match_authority = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:/?#@\s]+)(?::([0-9]{0,5}))?").fullmatch
_match_origin = re.compile(r"([a-z][a-z0-9+.-]*)://([!-~]+)").fullmatch
_is_name = re.compile(r"(?!-)[a-z0-9_-]+(?:\.[a-z0-9_-]+)*").fullmatch


def split_authority(authority: str) -> tuple[str, int | None] | None:
    """Take ``host:port`` apart.

    Args:
        authority: A host with or without port; an IPv6 address in brackets.

    Returns:
        The host in lower case, without brackets, escapes or the dot of a complete name, an address in its
        shortest form; and the port, None where none is given. None for anything else.
    """
    match = _match_authority(authority.lower())
    if match is None:
        return None
    host, port = match[1], int(match[2]) if match[2] else None
    if port is not None and port > 65535:
        return None
    host = unquote(host.strip("[]")).removesuffix(".")
    return parse_address(host) or host, port


def parse_address(host: str) -> str | None:
    """Return an IPv4 or IPv6 address in its shortest form, None for a name.

    Args:
        host: A host without brackets.
    """
    # Most hosts are names, and to refuse one takes ipaddress 5 µs.
    if not (host[-1:].isdigit() or ":" in host):
        return None
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return None


def is_name(host: str) -> bool:
    """True for what can be the name of a host in the DNS, any address included.

    Args:
        host: A host as `split_authority` returns it.
    """
    return len(host) <= 253 and (_is_name(host) is not None or parse_address(host) is not None)


def is_local_name(host: str) -> bool:
    """True for ``localhost`` and all names below it, which never leave the machine (RFC 6761, 6.3).

    Args:
        host: A host as `split_authority` returns it.
    """
    return host == "localhost" or host.endswith(".localhost")


def client_address(text: str) -> str:
    """Return the address of a client as it would write it itself.

    Args:
        text: What the socket says. One that takes both families says ``::ffff:192.0.2.1`` for an IPv4 client
            (RFC 4291, 2.5.5.2).
    """
    return text.removeprefix("::ffff:") if "." in text else text


def may_be_loopback(host: str) -> bool:
    """True for a loopback address, and for a name, which may be one of such an address.

    Args:
        host: An address or a name to listen on.
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True


def build_origin(scheme: str, authority: str) -> str | None:
    """Return the origin of a URL as a browser serialises it (RFC 6454, 6.2).

    Args:
        scheme: In lower case.
        authority: Host and port.

    Returns:
        ``scheme://host[:port]``, the port only where it is not the scheme's own; None without a host.
    """
    parts = split_authority(authority)
    if parts is None or not is_name(parts[0]):
        return None
    host, port = parts
    shown = f"[{host}]" if ":" in host else host
    return (
        f"{scheme}://{shown}" if port in (None, DEFAULT_PORTS.get(scheme)) else f"{scheme}://{shown}:{port}"
    )


def parse_origin(text: str) -> str | None:
    """Bring an origin into the form in which browsers send it.

    Args:
        text: ``scheme://host[:port]``.

    Returns:
        The origin, or None for anything else, ``null`` included.
    """
    match = _match_origin(text.lower())
    return match and build_origin(match[1], match[2])
