"""A small real MCP server: `mcp_server.py stdio`, or `http` or `sse` on a free port, which it prints."""

from __future__ import annotations

import os
import socket
import sys

import uvicorn
from mcp.server import MCPServer

server = MCPServer("small")


@server.tool()
def shout(text: str) -> str:
    """Say it louder."""
    return f"{text.upper()}! {os.environ.get('SHOUT_WITH', '')}".strip()


if sys.argv[1] == "stdio":
    server.run("stdio")
else:
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)  # noqa: T201 - it is how its starter learns the port
    app = server.sse_app() if sys.argv[1] == "sse" else server.streamable_http_app()
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
