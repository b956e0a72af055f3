"""HTTP proxies of the environment: which one gRPC would take for a target, and for which targets none is wanted.

gRPC tunnels every connection through `grpc_proxy`, `https_proxy` or `http_proxy` (lower case only), also one
to this host.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from agent_client.targets import address_of, host_of, is_local

VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
EXEMPTIONS = ("no_grpc_proxy", "no_proxy", "NO_PROXY")


class Proxy(NamedTuple):
    """A proxy: the variable that names it, and its host and port, without credentials."""

    variable: str
    address: str


def proxy_for(target: str, environment: Mapping[str, str] = os.environ) -> Proxy | None:
    """Return the proxy that a connection to `target` takes; None for this host and for what `no_proxy` names."""
    variable = next((name for name in VARIABLES if environment.get(name)), "")
    if not variable or is_local(target) or _is_exempt(host_of(target), environment):
        return None
    parts = urlsplit(environment[variable] if "://" in environment[variable] else f"//{environment[variable]}")
    return Proxy(variable, parts.netloc.rpartition("@")[2])


def _is_exempt(host: str, environment: Mapping[str, str]) -> bool:
    text = next((environment[name] for name in EXEMPTIONS if environment.get(name)), "")
    return any(_matches(host.lower(), entry.strip().lower()) for entry in text.split(",") if entry.strip())


def _matches(host: str, entry: str) -> bool:
    """Compare as gRPC does, by suffix or network; `*`, a leading dot and a port are understood besides."""
    if entry == "*":
        return True
    address = address_of(host)
    if address is not None and "/" in entry:
        try:
            return address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    return host.endswith(host_of(entry).removeprefix("*").removeprefix("."))
