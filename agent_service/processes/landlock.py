"""Runs one command behind a Landlock ruleset. A program, not a module of the service.

    python -I -S landlock.py UID GID READ WRITE COMMAND...

READ and WRITE are lists of paths, divided by newlines; "@7" stands for the open descriptor 7. What is in neither can be
neither read nor written nor executed. UID and GID are numbers, or "-" to stay who it is. The command has no
capability, gains none by what it executes, and where the kernel can do it, it reaches no process and no abstract
socket outside. The exit status is that of the command; 127 when it could not be started behind the ruleset.

Every start of an agent pays for what is imported here.
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_NO_NEW_PRIVS = 38
PR_CAPBSET_DROP = 24
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
CREATE_RULESET_VERSION = 1
RULE_PATH_BENEATH = 1
SCOPES = 3  # abstract Unix sockets and signals, since ABI 6
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, TRUNCATE, IOCTL_DEV = 1, 2, 4, 8, 1 << 14, 1 << 15
RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
"""All rights over files that each version of the kernel's interface knows."""
OF_A_FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
READING = EXECUTE | READ_FILE | READ_DIR | IOCTL_DEV
LEAST_ABI = 2  # without it, files could not be moved between directories

libc = ctypes.CDLL(None, use_errno=True)


class Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


class CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def main(uid: str, gid: str, reading: str, writing: str, command: list[str]) -> None:
    try:
        confine(reading.split("\n"), writing.split("\n"))
        become(uid, gid)
        call(libc.prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        os.execv(command[0], command)  # os.execvp would import a module that is out of sight by now
    except OSError as error:
        os.write(2, f"landlock: cannot start {command[0]}: {error}\n".encode(errors="replace"))
    os._exit(127)


def abi() -> int:
    """The version of the kernel's interface; 0 or less where there is none."""
    return int(libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(CREATE_RULESET_VERSION)))


def confine(reading: list[str], writing: list[str]) -> None:
    version = abi()
    if version < LEAST_ABI:
        raise OSError(f"the kernel's Landlock has version {version}, and {LEAST_ABI} is needed")
    rights = RIGHTS.get(version, RIGHTS[5])
    attributes = Ruleset(rights, 0, SCOPES if version >= 6 else 0)
    size = ctypes.sizeof(attributes) if version >= 6 else 8
    ruleset = call(libc.syscall, CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(size), ctypes.c_uint32(0))
    for path in reading:
        allow(ruleset, path, READING & rights)
    for path in writing:
        allow(ruleset, path, rights)
    call(libc.prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call(libc.syscall, RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    os.close(ruleset)


def allow(ruleset: int, path: str, rights: int) -> None:
    """Allow these rights below a path; what has vanished meanwhile needs none."""
    if not path:
        return
    try:
        descriptor = int(path[1:]) if path[0] == "@" else os.open(path, os.O_PATH | os.O_CLOEXEC)
        mode = os.fstat(descriptor).st_mode
    except FileNotFoundError:
        return
    except PermissionError:
        return  # it could not be reached without a ruleset either
    if mode & 0o170000 != 0o040000:
        rights &= OF_A_FILE
    rule = PathBeneath(rights, descriptor)
    call(
        libc.syscall, ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(RULE_PATH_BENEATH), ctypes.byref(rule),
        ctypes.c_uint32(0),
    )  # fmt: skip
    os.close(descriptor)


def become(uid: str, gid: str) -> None:
    """Give up all capabilities, and become another user when one is named."""
    if os.geteuid() == 0:
        for capability in range(64):
            if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
                break
        libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    if uid != "-":
        os.setgroups([])
        os.setresgid(int(gid), int(gid), int(gid))
        os.setresuid(int(uid), int(uid), int(uid))
    header, nothing = CapHeader(0x20080522, 0), (ctypes.c_uint32 * 6)()
    call(libc.capset, ctypes.byref(header), ctypes.byref(nothing))


def call(function: ctypes._NamedFuncPointer, *arguments: object) -> int:
    result = int(function(*arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5:])
