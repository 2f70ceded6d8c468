"""From hosts to addresses: both families, names, and machines without IPv6."""

import socket
from typing import Any

import pytest

from fastkv import machine
from fastkv.addresses import BindAddress, resolve
from fastkv.errors import StartError

V4, V6 = socket.AF_INET, socket.AF_INET6


def ips(*hosts: str) -> list[tuple[str, bool]]:
    return [(each.ip, each.takes_ipv4) for each in resolve(hosts)]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What each name stands for, in place of the resolver."""
    known: dict[str, list[str]] = {}
    real = socket.getaddrinfo

    def look_up(host: str, port: int, **kwargs: Any) -> list[Any]:
        return [found for ip in known.get(host, [host]) for found in real(ip, port, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return known


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Addresses that this machine does not have; it has all others."""
    missing: set[str] = set()
    monkeypatch.setattr("fastkv.addresses._is_here", lambda address: address.ip not in missing)
    return missing


def test_all_addresses_are_one_socket_for_both_families() -> None:
    assert ips("::") == [("::", True)]


@pytest.mark.parametrize("ipv4", ["0.0.0.0", "127.0.0.1"])
def test_beside_an_ipv4_address_it_is_ipv6_alone(ipv4: str) -> None:
    assert ips(ipv4, "::") == [(ipv4, False), ("::", False)]
    assert ips("::", ipv4) == [("::", False), (ipv4, False)]


def test_other_ipv6_addresses_take_no_ipv4() -> None:
    assert ips("::1") == [("::1", False)]
    assert ips("::1", "::") == [("::1", False), ("::", True)]


def test_without_ipv6_all_addresses_are_those_of_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "has_ipv6", lambda: False)
    assert resolve(["::"]) == [BindAddress("0.0.0.0", V4, "0.0.0.0")]
    assert ips("0.0.0.0", "::") == [("0.0.0.0", False)]
    assert ips("::", "127.0.0.1") == [("0.0.0.0", False), ("127.0.0.1", False)]


def test_each_address_is_there_once_in_order(names: dict[str, list[str]], absent: set[str]) -> None:
    names["both"] = ["127.0.0.1", "::1"]
    assert ips("::1", "both", "127.0.0.1", "::1") == [("::1", False), ("127.0.0.1", False)]


def test_a_name_means_the_addresses_that_the_machine_has(
    names: dict[str, list[str]], absent: set[str]
) -> None:
    names["both"] = ["127.0.0.1", "::1"]
    absent.add("::1")
    assert ips("both") == [("127.0.0.1", False)]
    absent.add("127.0.0.1")  # bind() will say so
    assert ips("both") == [("127.0.0.1", False), ("::1", False)]


def test_an_address_is_not_left_out(absent: set[str]) -> None:
    absent.add("192.0.2.1")
    assert ips("127.0.0.1", "192.0.2.1") == [("127.0.0.1", False), ("192.0.2.1", False)]


def test_a_name_that_cannot_be_resolved_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(StartError) as caught:
        resolve(["notahost.invalid"])
    assert str(caught.value) == (
        "--host: 'notahost.invalid' cannot be resolved (Name or service not known); "
        "give an address of this machine, such as 127.0.0.1, or a name that has one."
    )


def test_a_name_that_dns_cannot_carry_is_one_sentence() -> None:
    with pytest.raises(StartError, match=r"cannot be resolved \(.*\); give an address"):
        resolve(["a." * 200])
