"""Signals that a process inherited: what it starts gets the default dispositions and an empty mask all the same.

A shell starts background jobs of a script with SIGINT and SIGQUIT ignored, nohup ignores SIGHUP, and an odd parent may
ignore SIGCHLD or block signals. exec passes ignored and blocked signals on, and a shell cannot undo either.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

_NEVER_HANDLED = {signal.SIGKILL, signal.SIGSTOP}
_RESTORED_BY_SUBPROCESS = {signal.SIGPIPE, signal.SIGXFSZ}
"""Python itself ignores these two; its subprocess module restores them in each child (`restore_signals`)."""


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Stand in for SIG_IGN: exec resets a handler to the default, but passes SIG_IGN on."""


def let_children_start_afresh() -> None:
    """Keep this process deaf to the signals it ignores, and let no process that is started from now on inherit that.

    Each SIG_IGN becomes a handler that does nothing, and blocked signals are unblocked. Signals of the interpreter can
    be changed by its main thread only; in any other thread this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in signal.valid_signals() - _NEVER_HANDLED - _RESTORED_BY_SUBPROCESS:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, _do_nothing)
            signal.siginterrupt(number, False)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def is_ignored(number: signal.Signals) -> bool:
    """Return whether this process ignores a signal, by SIG_IGN or by the handler that replaced it."""
    return signal.getsignal(number) in (signal.SIG_IGN, _do_nothing)
