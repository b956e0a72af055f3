"""The gRPC server: its channel arguments, and the services beside AgentService (health, reflection)."""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from dataclasses import dataclass

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from agent_service.api.chain import SERVICE, Chain
from agent_service.api.grpc import MAX_RECEIVED_BYTES, add_to_server
from agent_service.api.limits import MAX_CONNECTION_STREAMS, MAX_MESSAGE_BYTES
from agent_service.api.reflection import add_reflection
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
    """A gRPC server that accepts calls."""

    server: grpc.aio.Server
    health: health.aio.HealthServicer
    address: str
    """HOST:PORT, with the port that was chosen when 0 was asked for."""


async def listen(address: str, chain: Chain) -> Listener:
    """Serve AgentService, health and reflection at HOST:PORT. Raises CannotServe when the address cannot be bound."""
    server = grpc.aio.server(options=SERVER_ARGUMENTS)
    add_to_server(chain, server)
    health_servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    for name in ("", SERVICE):
        await health_servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    add_reflection(server)
    host, _, port_text = address.rpartition(":")
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise CannotServe(f"cannot listen on {address}: {error}; is the port taken?") from error
    await server.start()
    return Listener(server, health_servicer, f"{host}:{port or port_text}")


def check_address(address: str, *, insecure: bool) -> None:
    """Raise CannotServe when this is not HOST:PORT, or is reachable from other machines without `insecure`."""
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdecimal() or int(port) > 65535:
        raise CannotServe(f"listen must be HOST:PORT, such as 127.0.0.1:50051, not {address!r}")
    if not _is_loopback(host.strip("[]")) and not insecure:
        raise CannotServe(
            f"{host or 'every address'} is reachable from other machines, and nobody is authenticated yet: "
            "listen on 127.0.0.1, or say --insecure if something in front of the service decides who may call it"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False
