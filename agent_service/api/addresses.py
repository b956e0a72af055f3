"""Addresses of listeners, as `--listen` has them, and what each needs so that it may be served."""

from __future__ import annotations

import ipaddress
import os
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from agent_service.errors import CannotServe

MAX_SOCKET_PATH = 107
"""Bytes of a Unix socket's path that the kernel takes."""


class Transport(StrEnum):
    """The transport of a listener, by the word before its address."""

    PLAIN = ""
    TLS = "tls"
    MTLS = "mtls"
    UNIX = "unix"


@dataclass(frozen=True)
class Address:
    """One listener's address: HOST:PORT, or the path of a Unix socket."""

    transport: Transport
    place: str

    @property
    def host(self) -> str:
        """The host, without brackets; "" means every address."""
        return self.place.rpartition(":")[0].strip("[]")

    @property
    def is_local(self) -> bool:
        """Whether only this host can call."""
        return self.transport is Transport.UNIX or _is_loopback(self.host)

    def __str__(self) -> str:
        """Return the address with the word before it."""
        return f"{self.transport}:{self.place}" if self.transport else self.place


def parse_address(text: str) -> Address:
    """Read an address. Raises CannotServe when it is none."""
    word, _, rest = text.partition(":")
    transport = Transport(word) if word in ("tls", "mtls", "unix") else Transport.PLAIN
    place = rest if transport else text
    if transport is Transport.UNIX:
        return Address(transport, _socket_path(place, text))
    _, separator, port = place.rpartition(":")
    if not separator or not port.isdecimal() or int(port) > 65535:
        raise CannotServe(
            "listen must be HOST:PORT, such as 127.0.0.1:50051, or tls:HOST:PORT, mtls:HOST:PORT or unix:/PATH, "
            f"not {text!r}"
        )
    return Address(transport, place)


def parse_addresses(texts: tuple[str, ...], *, insecure: bool, access: bool) -> list[Address]:
    """Read all addresses; `access`: whether there is an access file. Raises CannotServe for one that is not safe."""
    if not texts:
        raise CannotServe("listen must name at least one address, such as 127.0.0.1:50051")
    addresses = [parse_address(text) for text in texts]
    for address in addresses:
        if addresses.count(address) > 1 and not address.place.endswith(":0"):
            raise CannotServe(f"listen names {address} twice")
        if not insecure:
            _check_reach(address, access=access)
    return addresses


def _check_reach(address: Address, *, access: bool) -> None:
    if address.is_local:
        return
    reach = f"{address.host or 'every address'} is reachable from other machines"
    if address.transport is Transport.PLAIN:
        raise CannotServe(
            f"{reach}, and without TLS everybody on the way reads tokens and sessions: listen on 127.0.0.1, or on "
            f"tls:{address.place} with --tls-cert, --tls-key and --access, or say --insecure if something in front of "
            "the service decides who may call it"
        )
    if not access:
        raise CannotServe(f"{reach}, so it needs an access file that says who may call: --access FILE (or --insecure)")


def _socket_path(place: str, text: str) -> str:
    path = "/" + place.lstrip("/") if place.startswith("//") else place
    if not path.startswith("/") or path.endswith("/") or os.path.normpath(path) != path:
        raise CannotServe(
            f"listen must be unix: and the absolute path of a socket, such as unix:/run/agents/ci.sock, not {text!r}"
        )
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise CannotServe(
            f"the path of the socket {path} has more than {MAX_SOCKET_PATH} bytes, the most that the system takes"
        )
    return path


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False
