"""The channel to the service: its keepalive, its reconnection and its retry policy."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources

import grpc
import grpc.aio

from agent_client import forks
from agent_client.proxies import Proxy, proxy_for

ChannelOptions = Mapping[str, str | int]


def service_config() -> str:
    """Return the retry policy shipped with the package: safe for every RPC, because request ids are always set."""
    return resources.files("agent_client").joinpath("service_config.json").read_text()


def default_options() -> dict[str, str | int]:
    """Return the channel options that suit the service; it permits a ping every 10 s."""
    return {
        "grpc.service_config": service_config(),
        "grpc.service_config_disable_resolution": 1,
        "grpc.keepalive_time_ms": 30_000,
        "grpc.keepalive_timeout_ms": 10_000,
        "grpc.http2.max_pings_without_data": 0,
        # A service that restarts is back within seconds; gRPC's own pauses grow to two minutes.
        "grpc.initial_reconnect_backoff_ms": 100,
        "grpc.max_reconnect_backoff_ms": 2_000,
    }


def proxy_of(target: str, options: ChannelOptions | None = None) -> Proxy | None:
    """Return the HTTP proxy of the environment that a channel with these options takes to `target`."""
    chosen = dict(options or {})
    if "grpc.http_proxy" in chosen or chosen.get("grpc.enable_http_proxy", 1) == 0:
        return None
    return proxy_for(target)


def open_channel(
    target: str, credentials: grpc.ChannelCredentials | None = None, options: ChannelOptions | None = None
) -> grpc.aio.Channel:
    """Open a channel: encrypted with `credentials`, in the clear without; `options` override the defaults.

    Raises ForkedAfterUse in a process that was forked after a client had been used.
    """
    forks.use_grpc()
    direct = {} if proxy_for(target) else {"grpc.enable_http_proxy": 0}
    merged = [*(default_options() | direct | dict(options or {})).items()]
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=merged)
    return grpc.aio.secure_channel(target, credentials, options=merged)
