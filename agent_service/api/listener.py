"""The gRPC servers, one for each address: channel arguments, and the services beside AgentService."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from agent_service.api.addresses import Address, Transport
from agent_service.api.call import Door
from agent_service.api.chain import SERVICE, Chain
from agent_service.api.grpc import MAX_RECEIVED_BYTES, add_to_server
from agent_service.api.identity import Identity
from agent_service.api.limits import MAX_CONNECTION_STREAMS, MAX_MESSAGE_BYTES, MAX_METADATA_BYTES
from agent_service.api.reflection import add_reflection
from agent_service.api.tls import ServerTls, TlsFiles
from agent_service.api.unix import bind_socket
from agent_service.errors import CannotServe

MAX_PENDING_CALLS = 20_000

SERVER_ARGUMENTS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_RECEIVED_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),
    # Calls that come faster than they are accepted wait, as when thousands of watchers reconnect. The library's own
    # limit is 1,000; beyond that it cancels at random.
    ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_CALLS),
    # Without a limit one connection drove the memory to gigabytes: a header block of 12 kB, made of references to one
    # compressed header, took 0.7 MB a stream. Beyond the limit clients wait, or open more connections as ours does.
    ("grpc.max_concurrent_streams", MAX_CONNECTION_STREAMS),
    # gRPC counts a header by the bytes of its name and value: a block of 12 kB had 12,000 headers of one byte each,
    # which took 2 MB. Between its own two limits, 8 and 16 KiB, it refuses at random; a token of 8 KiB must fit.
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    # A connection that does not confirm the settings, as no gRPC library leaves out, is closed. The default is 60 s.
    ("grpc.http2.settings_timeout", 10_000),
    # Clients may ping every 10 s, the shortest interval that grpc-go allows. The library's own limit is 300 s: pings
    # every 30 s ended connections with GOAWAY too_many_pings after 90 to 150 s. The limit is half of 10 s, because the
    # ping after a delayed one comes too early, and the third early ping ends the connection.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)
"""gRPC ignores names it does not know without a word: a test compares these with the names in its core."""


@dataclass(frozen=True)
class Listener:
    """A gRPC server that accepts calls at one address."""

    server: grpc.aio.Server
    health: health.aio.HealthServicer
    address: str
    """As asked for, with the port that was chosen when 0 was asked for."""
    place: str
    """The address without the transport before it: HOST:PORT, or a path."""
    is_local: bool


@dataclass(frozen=True)
class Doorway:
    """What all listeners share: the chain, the link that admits callers of reflection, and the files of TLS."""

    chain: Chain
    identity: Identity
    tls: TlsFiles


class Listeners:
    """All listeners of a service, as one."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        """Take listeners that accept calls."""
        self.all = tuple(listeners)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Their addresses, in the order of `--listen`."""
        return tuple(each.address for each in self.all)

    async def enter_graceful_shutdown(self) -> None:
        """Report NOT_SERVING at every address."""
        await asyncio.gather(*(each.health.enter_graceful_shutdown() for each in self.all))

    async def stop(self, grace: float) -> None:
        """Refuse further calls at every address at once; end those that are open after `grace` seconds."""
        await asyncio.gather(*(each.server.stop(grace) for each in self.all))


async def listen(addresses: Sequence[Address], doorway: Doorway) -> Listeners:
    """Serve at every address, or at none. Raises CannotServe when one cannot be bound."""
    listeners: list[Listener] = []
    try:
        for address in addresses:
            listeners += [await _listen(address, doorway)]
    except CannotServe:
        await Listeners(listeners).stop(0)
        raise
    return Listeners(listeners)


async def _listen(address: Address, doorway: Doorway) -> Listener:
    """Serve AgentService, health and reflection at one address, with a server of its own: a call tells no port."""
    server = grpc.aio.server(options=SERVER_ARGUMENTS)
    door = _door(address)
    add_to_server(doorway.chain, server, door)
    health_servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    for name in ("", SERVICE):
        await health_servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    add_reflection(server, doorway.identity, door)
    place = _bind(server, address, doorway.tls)
    await server.start()
    return Listener(server, health_servicer, str(Address(address.transport, place)), place, address.is_local)


def _door(address: Address) -> Door:
    is_socket = address.transport is Transport.UNIX
    return Door(
        loopback=address.is_local,
        socket=address.place if is_socket else "",
        certified=address.transport is Transport.MTLS,
    )


def _bind(server: grpc.aio.Server, address: Address, tls: TlsFiles) -> str:
    """Bind the address; return its place, with the port that was chosen."""
    if address.transport is Transport.UNIX:
        bind_socket(server, address.place)
        return address.place
    host, _, port_text = address.place.rpartition(":")
    try:
        if address.transport is Transport.PLAIN:
            port = server.add_insecure_port(address.place)
        else:
            secure = ServerTls(tls, certified=address.transport is Transport.MTLS)
            port = server.add_secure_port(address.place, secure.credentials())
    except RuntimeError as error:
        raise CannotServe(f"cannot listen on {address}: {error}; is the port taken?") from error
    return f"{host}:{port or port_text}"
