"""Opens ports on loopback in its network namespace, hands them to the service, and becomes a command. A program.

    python -I -S loopback.py SOCKET PORT... -- COMMAND...

A socket belongs to the network that it was made in, whoever has it: the service then answers in a network that has
nothing else, without a process in between. SOCKET is a Unix socket of the service's, which takes the listening sockets
and answers with one byte. The import of anything but the smallest modules would be paid for by every start of an agent.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing itself would have to be imported
if TYPE_CHECKING:
    import signal
    import socket
else:
    import _signal as signal  # the same without the enums, whose import is most of the start
    import _socket as socket

RESTORED = (signal.SIGPIPE, signal.SIGXFSZ)  # Python ignores these two, and exec would hand that on
BACKLOG = 128


def main(service: str, ports: list[int], command: list[str]) -> None:
    """Open the ports, hand them over, become the command. Raises OSError."""
    listeners = [listen(port) for port in ports]
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    channel.connect(service)
    rights = b"".join(listener.fileno().to_bytes(4, sys.byteorder) for listener in listeners)
    channel.sendmsg([bytes(len(ports))], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    if channel.recv(1) != b"\1":
        raise OSError("the service did not take the ports")
    for number in RESTORED:
        signal.signal(number, signal.SIG_DFL)
    os.execvp(command[0], command)  # every descriptor of this program's own is closed by that


def listen(port: int) -> socket.socket:
    """Listen on a port of loopback."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(BACKLOG)
    return listener


if __name__ == "__main__":
    end = sys.argv.index("--")
    try:
        main(sys.argv[1], [int(port) for port in sys.argv[2:end]], sys.argv[end + 1 :])
    except OSError as error:
        os.write(2, f"loopback: {error}\n".encode(errors="replace"))
        os._exit(127)
