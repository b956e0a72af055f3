"""Targets: what gRPC's names of servers say, and which of them are on this host."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator
from urllib.parse import unquote

_OTHER_LOCAL = ("unix-abstract:", "vsock:")


def host_of(target: str) -> str:
    """Return the host of a gRPC target, such as `dns:///HOST:PORT`, `ipv6:[HOST]:PORT` or `HOST:PORT`."""
    return _split(_without_scheme(target))[0]


def is_local(target: str) -> bool:
    """Tell whether a target is on this host, with all its addresses where it lists several."""
    if target.startswith(("unix:", *_OTHER_LOCAL)):
        return True
    return all(_is_local_host(_split(each)[0]) for each in _listed(target))


def local_addresses(target: str) -> Iterator[tuple[str, str]]:
    """Yield host and port of a target on this host, for a Unix socket its absolute path and no port."""
    if target.startswith("unix:"):
        path = target.removeprefix("unix:")
        yield os.path.abspath(path.removeprefix("//") if path.startswith("///") else path), ""
    elif is_local(target) and not target.startswith(_OTHER_LOCAL):
        yield from map(_split, _listed(target))


def address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that a text is; None for a name."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _listed(target: str) -> list[str]:
    rest = _without_scheme(target)
    return rest.split(",") if target.startswith(("ipv4:", "ipv6:")) else [rest]


def _without_scheme(target: str) -> str:
    return re.sub(r"^(?:dns|ipv4|ipv6):(?://[^/]*/)?", "", target)


def _split(address: str) -> tuple[str, str]:
    """Split HOST:PORT, [HOST]:PORT or HOST into both."""
    bracketed = re.match(r"\[([^\]]*)\]:?(.*)", unquote(address))
    if bracketed:
        return bracketed[1], bracketed[2]
    if address.count(":") > 1:
        return address, ""
    host, _, port = address.partition(":")
    return host, port


def _is_local_host(name: str) -> bool:
    host = name.rstrip(".").lower()
    address = address_of(host)
    if address is None:
        return host == "localhost" or host.endswith(".localhost")
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_loopback or mapped.is_unspecified)
