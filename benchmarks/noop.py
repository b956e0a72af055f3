"""A grpc.aio server that does nothing: what is left of a call without the service. `python -m benchmarks.noop`."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio

EVENT = b"e" * 300


async def unary(request: bytes, context: Any) -> bytes:
    """Answer with as many bytes as a status has."""
    return EVENT


async def stream(request: bytes, context: Any) -> None:
    """Send as many messages of one event each as the request, a number in ASCII, asks for."""
    for _ in range(int(request)):
        await context.write(EVENT)


async def main() -> None:
    """Serve until killed."""
    server = grpc.aio.server()
    handlers: dict[str, Any] = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("noop.Noop", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"noop listening on 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
