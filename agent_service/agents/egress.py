"""Egress: the proxy by which sealed agents reach the hosts that their tenant's policy names, and nothing else.

It carries CONNECT to port 443 and nothing else: pip, npm, git and curl find it by HTTPS_PROXY. A name is compared as
it is written, then resolved here, and the connection goes to an address that was looked at: none of the host's own
network, whatever a name server says.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from agent_service.agents.few_lines import FewLines

log = logging.getLogger(__name__)

PORT = 443
MAX_HEAD = 8 << 10
"""Bytes of a request's head."""
MAX_TUNNELS = 64
"""Connections of one agent."""
HEAD_TIMEOUT = 10.0
CONNECT_TIMEOUT = 10.0
IDLE_TIMEOUT = 600.0
"""Seconds after which a tunnel in which nothing moves is closed."""
MAX_ADDRESSES = 4
"""Addresses of a host that are tried."""
PIECE = 64 << 10

_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"({_LABEL}\.)*[a-z]([a-z0-9-]{{0,61}}[a-z0-9])?")
"""A name in ASCII. Its last label begins with a letter: what ends in a number is an address in some spelling."""
_REQUEST = re.compile(rb"([A-Z]{1,16}) ([\x21-\x7e]{1,512}) HTTP/1\.[01]")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str], Awaitable[Sequence[str]]]


class Refused(Exception):
    """A request that is not carried: the status and the sentence that the agent's tool is told."""

    def __init__(self, status: str, text: str) -> None:
        """Keep both."""
        super().__init__(text)
        self.status = status


def is_allowed(host: str, allowed: Sequence[str]) -> bool:
    """Return whether a host is one of those allowed: "example.com" alone, "*.example.com" for all below it."""
    return any(host.endswith(each[1:]) if each.startswith("*.") else host == each for each in allowed)


def is_public(address: Address) -> bool:
    """Return whether an address is one of the internet: no private network, and no way around into one."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address.sixtofour is not None or address.teredo is not None:
            return False
    return address.is_global and not address.is_multicast


def target(line: bytes) -> str:
    """Return the host that a request line asks to be connected to. Raises Refused for all that is no such request."""
    match = _REQUEST.fullmatch(line)
    if match is None:
        raise Refused("400 Bad Request", "this is no HTTP request")
    if match[1] != b"CONNECT":
        raise Refused("405 Method Not Allowed", "this proxy carries https alone (CONNECT to port 443)")
    host, colon, port = match[2].decode("ascii").lower().rpartition(":")
    if not colon or port != str(PORT):
        raise Refused("403 Forbidden", f"only port {PORT} can be reached")
    if len(host) > 253 or not _HOST.fullmatch(host):
        raise Refused(
            "403 Forbidden", "only names of hosts can be reached, without a dot at their end, and no addresses"
        )
    return host


async def resolved(host: str) -> list[str]:
    """Return the addresses of a host."""
    found = await asyncio.get_running_loop().getaddrinfo(host, PORT, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


class Egress:
    """One agent's proxy."""

    def __init__(
        self,
        allowed: Sequence[str],
        *,
        resolve: Resolve = resolved,
        may_reach: Callable[[Address], bool] = is_public,
        port: int = PORT,
    ) -> None:
        """Let through what `allowed` names; the others are for tests."""
        self._allowed = tuple(allowed)
        self._resolve = resolve
        self._may_reach = may_reach
        self._port = port
        self._server: asyncio.Server | None = None
        self._tunnels: set[asyncio.Task[None]] = set()
        self._log = FewLines(log)

    async def open(self, listener: socket.socket) -> None:
        """Begin to serve on a listening socket."""
        self._server = await asyncio.start_server(self._serve, sock=listener, limit=MAX_HEAD)

    async def close(self) -> None:
        """Stop serving, and drop what is open."""
        if self._server is not None:
            self._server.close()
        for tunnel in self._tunnels:
            tunnel.cancel()
        if self._tunnels:
            await asyncio.wait(self._tunnels)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tunnels.add(task)
        try:
            await self._answer(reader, writer)
        except Refused as refused:
            text = f"{refused}\n".encode()
            writer.write(f"HTTP/1.1 {refused.status}\r\ncontent-type: text/plain\r\n".encode())
            writer.write(b"content-length: %d\r\nconnection: close\r\n\r\n%s" % (len(text), text))
            with suppress(OSError):
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            pass  # the tool has gone, or never asked
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self._tunnels.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._tunnels) > MAX_TUNNELS:
            raise Refused("503 Service Unavailable", f"this agent has {MAX_TUNNELS} connections open already")
        try:
            async with asyncio.timeout(HEAD_TIMEOUT):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            raise Refused("431 Request Header Fields Too Large", f"a head has at most {MAX_HEAD} bytes") from None
        host = target(head.partition(b"\r\n")[0])
        if not is_allowed(host, self._allowed):
            self._log.warning("an agent asked for %s, which its tenant's egress does not name", host)
            raise Refused("403 Forbidden", f"{host} cannot be reached from here; open are {', '.join(self._allowed)}")
        await self._tunnel(reader, writer, *await self._connect(host))

    async def _connect(self, host: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to one of the host's addresses. Resolved once: the address that was looked at is the one used."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                addresses = [ipaddress.ip_address(each.partition("%")[0]) for each in await self._resolve(host)]
        except (OSError, UnicodeError, ValueError, TimeoutError):
            raise Refused("502 Bad Gateway", f"{host} has no address") from None
        usable = [address for address in addresses if self._may_reach(address)][:MAX_ADDRESSES]
        if not usable:
            self._log.warning("%s, which an agent asked for, has no address of the internet", host)
            raise Refused("403 Forbidden", f"{host} has no address of the internet")
        for address in usable:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    return await asyncio.open_connection(str(address), self._port)
        raise Refused("502 Bad Gateway", f"{host} does not answer")

    async def _tunnel(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        from_host: asyncio.StreamReader,
        to_host: asyncio.StreamWriter,
    ) -> None:
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        flow = _Flow(asyncio.get_running_loop().time())
        ways = [asyncio.create_task(flow.carry(reader, to_host)), asyncio.create_task(flow.carry(from_host, writer))]
        pending = set(ways)
        try:
            while pending:
                done, pending = await asyncio.wait(pending, timeout=IDLE_TIMEOUT, return_when=asyncio.FIRST_EXCEPTION)
                idle = asyncio.get_running_loop().time() - flow.moved >= IDLE_TIMEOUT
                if idle or any(way.exception() is not None for way in done):
                    break
        finally:
            to_host.transport.abort()
            for way in ways:
                way.cancel()
            await asyncio.wait(ways)


class _Flow:
    """The bytes of one tunnel, and when the last of them moved."""

    def __init__(self, now: float) -> None:
        self.moved = now

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(PIECE):
            self.moved = asyncio.get_running_loop().time()
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
