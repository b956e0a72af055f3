"""Runs one command and ends its whole process tree with it. A program, not a module of the service.

    python -I -S subreaper.py PARENT CGROUP VARIABLES COMMAND...

Every orphan below it becomes its child (PR_SET_CHILD_SUBREAPER), so it can end what daemonised itself and dropped
its environment. All is killed when the command ends or when the parent dies; the command is killed when this
program dies. PARENT is the process id that must be the parent, or 0 for whoever it is; CGROUP is a cgroup v2
directory for the command, or "-"; VARIABLES is a descriptor with variables for the command alone, or "-". The exit
status is that of the command, 128+n if signal n ended it.

The import of anything but the smallest modules would be paid for by every start of an agent.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time

TYPE_CHECKING = False  # typing itself would have to be imported
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # the same without the enums, whose import is a third of the start

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
ORPHANED = signal.SIGUSR2
FORWARDED = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}
WATCHED = FORWARDED | {signal.SIGCHLD}
RESTORED = (signal.SIGPIPE, signal.SIGXFSZ)  # Python ignores these two, and exec would hand that on
PATIENCE = 10.0


def main(parent: int, cgroup: str, variables: str, command: list[str]) -> int:
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    prctl(PR_SET_DUMPABLE, 0)  # no process of the tree may look into this one, or trace it
    prctl(PR_SET_PDEATHSIG, ORPHANED)
    actual = os.getppid()
    if parent not in (0, actual):  # the parent died before it could be watched
        return 128 + signal.SIGKILL
    child = start(command, cgroup, variables, mask)
    status = watch(child, actual)
    end_all(cgroup)
    return status if status >= 0 else 128 - status


def prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def start(command: list[str], cgroup: str, variables: str, mask: set[int | signal.Signals]) -> int:
    """Fork and execute the command; it dies with this process."""
    me = os.getpid()
    child = os.fork()
    if child == 0:
        become(command, cgroup, variables, mask, me)
    return child


def become(command: list[str], cgroup: str, variables: str, mask: set[int | signal.Signals], parent: int) -> None:
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(128 + signal.SIGKILL)
        if cgroup != "-":
            write(f"{cgroup}/cgroup.procs", b"0")
        for number in RESTORED:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        take(variables)
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"subreaper: cannot start {command[0]}: {error}\n".encode(errors="replace"))
    os._exit(127)


def take(variables: str) -> None:
    """Set the command's own variables: what this process executes inherits them."""
    if variables == "-":
        return
    with open(int(variables), "rb") as file:
        for each in file.read().split(b"\0"):
            name, _, value = each.partition(b"=")
            os.putenv(name, value)


def watch(child: int, parent: int) -> int:
    """Forward signals to the command until it has ended or the parent is dead; returns -n for signal n."""
    while True:
        number = signal.sigwait(WATCHED)
        if os.getppid() != parent:
            return -signal.SIGKILL
        if number == signal.SIGCHLD:
            ended = reap().get(child)
            if ended is not None:
                return os.waitstatus_to_exitcode(ended)
        else:
            os.kill(child, number)


def reap() -> dict[int, int]:
    """Collect every child that has ended; raises ChildProcessError when there is no child left at all."""
    ended: dict[int, int] = {}
    while True:
        try:
            child, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            if ended:
                return ended
            raise
        if child == 0:
            return ended
        ended[child] = status


def end_all(cgroup: str) -> None:
    """Kill level after level: the children of a killed child become ours, until there is none."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        kill_group(cgroup)
        kill_children()
        try:
            reap()
        except ChildProcessError:
            break
        signal.sigtimedwait({signal.SIGCHLD}, 0.02)
    remove(cgroup)


def kill_group(cgroup: str) -> None:
    try:
        write(f"{cgroup}/cgroup.kill", b"1")
    except OSError:
        return  # "-", or removed already


def kill_children() -> None:
    for child in read(f"/proc/self/task/{os.getpid()}/children").split():
        try:
            os.kill(int(child), signal.SIGKILL)
        except OSError:
            continue  # gone, or another user's: the cgroup or the next look may reach it


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def write(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY)  # and never create: the kernel makes these files
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def remove(directory: str) -> None:
    try:
        os.rmdir(directory)
    except OSError:
        return  # "-", or not empty yet: the service removes it too


if __name__ == "__main__":
    os._exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:]))
