"""Which addresses a webhook may be posted to."""

import socket
from ipaddress import ip_address
from typing import Any

import pytest

from watch.addresses import NotPublic, check_literal, is_public, resolve

PRIVATE = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
    "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1",
    "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:127.0.0.1", "64:ff9b::a00:1", "64:ff9b::7f00:1",
    "2002:a00:1::1", "2002:7f00:1::1", "2001:0:a00:1::1",
]  # fmt: skip
PUBLIC = ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_of_the_public_internet_are_refused(address: str) -> None:
    assert not is_public(ip_address(address))
    with pytest.raises(NotPublic, match="is not a public address"):
        check_literal(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_pass(address: str) -> None:
    assert is_public(ip_address(address))
    check_literal(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "::1"])
def test_however_loopback_is_written_it_is_refused(host: str) -> None:
    with pytest.raises(NotPublic):
        resolve(host, 443, ())


def test_an_allowed_host_may_be_private() -> None:
    assert "127.0.0.1" in resolve("localhost", 443, ("localhost",)) or "::1" in resolve(
        "localhost", 443, ("localhost",)
    )
    with pytest.raises(NotPublic):
        resolve("localhost", 443, ("127.0.0.1",))


def test_one_private_address_among_public_ones_is_enough_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*_: Any, **__: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 443)) for one in ("8.8.8.8", "10.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    with pytest.raises(NotPublic, match=r"10\.0\.0\.1"):
        resolve("rebinding.example", 443, ())
