"""A failed gRPC call → the exception of errors.py that fits it, from the google.rpc details that the service sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2  # type: ignore[import-untyped]  # it has stubs, but no py.typed
from grpc_status import rpc_status

from agent_client.errors import BY_CODE, BY_REASON, DOMAIN, AgentServiceError, first_of
from agent_client.proxies import Proxy
from agent_client.targets import host_of

PUSHBACK = "grpc-retry-pushback-ms"


def from_rpc_error(
    error: grpc.aio.AioRpcError,
    target: str,
    proxy: Proxy | None = None,
    *,
    encrypted: bool = False,
    certified: bool = False,
) -> AgentServiceError:
    """Make the exception that fits a failed call to `target`; without a known reason, that of its code.

    `encrypted` tells that the connection uses TLS, `certified` that the client shows a certificate.
    """
    details = details_of(error)
    info = first_of(details, error_details_pb2.ErrorInfo)
    reason = info.reason if info and info.domain == DOMAIN else ""
    kind = BY_REASON.get(reason) or BY_CODE.get(error.code(), AgentServiceError)
    text = error.details() or error.code().name
    if error.code() is grpc.StatusCode.UNAVAILABLE and not reason:
        text = _handshake(target, text, encrypted, certified) or _unreachable(target, text.rpartition(": ")[2], proxy)
    return kind(text, code=error.code(), reason=reason, details=details, retry_after=retry_after(error, details))


def _handshake(target: str, text: str, encrypted: bool, certified: bool) -> str:
    """Guess aloud why a handshake failed: gRPC has no reason for one that the server refused."""
    cut = "Socket closed" in text or "Connection reset by peer" in text or "recvmsg" in text
    if not encrypted and cut:
        return (
            f"{target} closed the connection: does the server want TLS? Then name its certificate authority (ca=, "
            "agentctl --ca, AGENT_CA)"
        )
    if encrypted and "WRONG_VERSION_NUMBER" in text:
        return f"{target} does not speak TLS: leave out the certificate authority, or name the server's TLS address"
    if encrypted and "CERTIFICATE_VERIFY_FAILED" in text:
        return f"the certificate of {target} is not signed by a trusted authority, or has expired ({_reason(text)})"
    if encrypted and "ostname" in text and "erif" in text:
        return f"the certificate of {target} names other hosts: use one of their names ({_reason(text)})"
    if encrypted and cut and certified:
        return f"{target} closed the connection: is the client's certificate expired, or of another authority?"
    if encrypted and cut:
        return (
            f"{target} closed the connection: does the server want a client certificate? Then name it with its key "
            "(cert= and key=, agentctl --cert and --key, AGENT_CERT and AGENT_KEY)"
        )
    return ""


def _reason(text: str) -> str:
    return text.rpartition("Handshake failed")[2].strip(" :()") or text


def _unreachable(target: str, why: str, proxy: Proxy | None) -> str:
    if proxy is None:
        return (
            f"cannot reach an agent service at {target} ({why}); start one with `agent-service serve`, or name another"
        )
    return (
        f"cannot reach an agent service at {target} through the proxy {proxy.address} that {proxy.variable} names "
        f"({why}); if it is to be reached without a proxy, add {host_of(target)} to no_proxy"
    )


def details_of(error: grpc.aio.AioRpcError) -> tuple[Any, ...]:
    """Unpack the google.rpc details of a failed call; none when there are none, or when they cannot be read."""
    try:
        status = rpc_status.from_call(error)  # type: ignore[arg-type]  # the stubs know only the synchronous call
    except (ValueError, DecodeError):
        return ()
    if status is None or status.code == code_pb2.OK:
        return ()
    return tuple(detail for detail in map(_unpack, status.details) if detail is not None)


def retry_after(error: grpc.aio.AioRpcError, details: Sequence[Any]) -> float | None:
    """Seconds the service asks to wait before a retry; None when it asks for nothing."""
    pushback = pushback_of(error)
    if pushback is not None and pushback >= 0:
        return pushback
    info = first_of(details, error_details_pb2.RetryInfo)
    return float(info.retry_delay.ToTimedelta().total_seconds()) if info else None


def pushback_of(error: grpc.aio.AioRpcError) -> float | None:
    """Seconds of the pushback trailer; negative means: do not retry (so does a value that is no number)."""
    text = next((value for key, value in error.trailing_metadata() or () if key == PUSHBACK), None)
    if text is None:
        return None
    try:
        return int(text) / 1000
    except ValueError:
        return -1.0


def _unpack(packed: Any) -> Any:
    name = packed.type_url.rpartition(".")[2]
    kind = getattr(error_details_pb2, name, None)
    if kind is None or not packed.Is(kind.DESCRIPTOR):
        return None
    detail = kind()
    packed.Unpack(detail)
    return detail
