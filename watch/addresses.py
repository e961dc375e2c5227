"""Which addresses a webhook may be posted to: public ones, and those of hosts that the operator allows by name."""

import socket
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

# an IPv4 address within an IPv6 one, for networks without IPv4
NAT64 = IPv6Network("64:ff9b::/96")


class NotPublic(Exception):
    """The address is none of the public internet; the message says which it is."""


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether it is an address of the public internet, also where it carries an IPv4 address within it."""
    if isinstance(address, IPv6Address):
        within = address.ipv4_mapped or address.sixtofour
        if address in NAT64:
            within = IPv4Address(int(address) & 0xFFFFFFFF)
        if within is not None:
            return is_public(within)
    return address.is_global and not address.is_multicast


def check_literal(host: str) -> None:
    """Raise `NotPublic` if `host` is written as an address that is not public; names pass."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return
    if not is_public(address):
        raise NotPublic(f"{host} is not a public address")


def resolve(host: str, port: int, allowed: Collection[str]) -> list[str]:
    """The addresses of a host, to connect to as they are: a name that is asked twice may answer twice. Raises
    `NotPublic` if any of them is not public and the host is not allowed, `OSError` if there is none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(where[0]) for *_, where in found))
    if host not in allowed:
        for address in addresses:
            check_literal(address)
    return addresses
