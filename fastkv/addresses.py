"""From hosts, as the settings name them, to the addresses that sockets are bound to.

Enters: IPv4 and IPv6 addresses and names. Leaves: the addresses, each once. Raises: `StartError` for a name
that cannot be resolved.

``::`` stands for every address of the machine, IPv4 included, as in Node and Go: one socket takes both
(IPV6_V6ONLY off, RFC 3493, 5.3). Two rules follow from what else is there:

- Where an IPv4 address is given besides, it says which of those are meant, and ``::`` is IPv6 alone.
- A machine without IPv6, as many containers are, has 0.0.0.0 in its place.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fastkv import machine
from fastkv.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Sequence

_ALL_IPV6: Final = "::"
_ALL_IPV4: Final = "0.0.0.0"


class BindAddress(NamedTuple):
    """An address to bind to.

    Attributes:
        host: what the settings call it.
        family: AF_INET or AF_INET6.
        ip: the address itself.
        scope: of IPv6 what bind() takes after the port: flow and scope; else nothing.
        takes_ipv4: whether a socket of AF_INET6 takes IPv4 as well.
    """

    host: str
    family: int
    ip: str
    scope: tuple[Any, ...] = ()
    takes_ipv4: bool = False

    def with_port(self, port: int) -> tuple[Any, ...]:
        """The address as bind() takes it."""
        return (self.ip, port, *self.scope)

    def bound(self, port: int, *, reuse_port: bool = False) -> socket.socket:
        """Make a socket that is bound to the address, and does not listen.

        Args:
            port: 0 for a free one.
            reuse_port: whether others of this user may bind to the same port (SO_REUSEPORT).

        Raises:
            OSError: it cannot be bound.
        """
        made = socket.socket(self.family, socket.SOCK_STREAM)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if self.family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not self.takes_ipv4)
            made.setblocking(False)
            made.bind(self.with_port(port))
        except BaseException:
            made.close()
            raise
        return made


def resolve(hosts: Sequence[str]) -> list[BindAddress]:
    """Find the addresses to bind to.

    Args:
        hosts: IPv4 and IPv6 addresses and names, 1 or more.

    Returns:
        The addresses, in the order of the hosts, each once.

    Raises:
        StartError: a name cannot be resolved.
    """
    found: dict[tuple[Any, ...], BindAddress] = {}
    for host in hosts:
        for each in _addresses(host):
            found.setdefault(each.with_port(0), each)
    addresses = list(found.values())
    if any(each.family == socket.AF_INET for each in addresses):
        return addresses
    return [each._replace(takes_ipv4=each.ip == _ALL_IPV6) for each in addresses]


def _addresses(host: str) -> list[BindAddress]:
    """The addresses of one host."""
    if host == _ALL_IPV6 and not machine.has_ipv6():
        host = _ALL_IPV4
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        why = (isinstance(error, OSError) and error.strerror) or str(error)
        raise StartError(
            f"--host: '{host}' cannot be resolved ({why}); "
            "give an address of this machine, such as 127.0.0.1, or a name that has one."
        ) from None
    addresses = [
        BindAddress(host, family, str(where[0]), where[2:])
        for family, _, _, _, where in found
        if family in (socket.AF_INET, socket.AF_INET6)
    ]
    # /etc/hosts may say ::1 for localhost where there is no IPv6. A name means those that the machine has.
    here = [each for each in addresses if _is_here(each)] if len(addresses) > 1 else []
    return here or addresses


def _is_here(address: BindAddress) -> bool:
    """Whether the machine has the address."""
    try:
        address.bound(0).close()
    except OSError:
        return False
    return True
