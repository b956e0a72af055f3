"""Events as text for people. What a service sends is not trusted: it passes through visible.py."""

from __future__ import annotations

import re
import sys
from collections import deque
from typing import TextIO

from agentpb import agent_pb2 as pb
from rich.console import Console
from rich.text import Text

from agent_client.asking import question
from agent_client.notices import notices
from agent_client.results import RunResult
from agent_client.tool_input import narrow, tool_input
from agent_client.visible import visible, visible_line

MAX_LINES = 40
MAX_WIDTH = 2000

_UNFINISHED = re.compile(r"[^\x00-\x7f]{1,16}\Z")

_PHASE_WORDS = {
    pb.SESSION_PHASE_LIMIT_REACHED: "limit reached",
    pb.SESSION_PHASE_TIMED_OUT: "timed out",
    pb.SESSION_PHASE_INTERRUPTED: "interrupted by a restart of the service",
}


def console(stream: TextIO | None = None) -> Console:
    """Make a console that never guesses: no markup, no emoji codes, no highlighting; colours only on a terminal."""
    return _Console(file=stream or sys.stdout, markup=False, emoji=False, highlight=False, soft_wrap=True)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Pass the error on; rich would end the program from within."""
        raise BrokenPipeError


def word(enum_name: str, prefix: str) -> str:
    """Make a word for people of an enum value's name."""
    return enum_name.removeprefix(prefix).lower().replace("_", " ")


def state_word(session: pb.Session) -> str:
    """Say where a session stands: its state, and its phase where that says more."""
    state = word(pb.SessionState.Name(session.state), "SESSION_STATE_")
    if session.phase not in pb.SessionPhase.values():
        return state
    phase = word(pb.SessionPhase.Name(session.phase), "SESSION_PHASE_")
    return state if phase in {"unspecified", "idle", "dormant", "failed", "working", state} else f"{state} ({phase})"


class EventPrinter:
    """Prints a session's events as they come; each text once, whether it came in pieces or whole."""

    def __init__(self, out: Console, *, prompts: bool = False, quiet: bool = False) -> None:
        """Print to `out`: prompts too when somebody else gave them; `quiet` prints the agent's words only."""
        self._out = out
        self._prompts = prompts
        self._quiet = quiet
        self._mid_line = False
        self._streamed: deque[tuple[str, str]] = deque()
        self._index = -1
        self._held = ("", "")

    def print(self, event: pb.SessionEvent) -> None:
        """Print one event, or nothing when it tells people nothing."""
        match event.WhichOneof("payload"):
            case "partial_message":
                self._partial(event)
            case "assistant_message":
                for block in event.assistant_message.content:
                    self._block(block, subagent=bool(event.parent_tool_use_id))
            case "user_message":
                self._user(event)
            case "interaction_requested":
                self._interaction(event.interaction_requested.interaction)
            case "turn_completed":
                self._streamed.clear()
                self.end_line()
            case _ if not self._quiet:
                self._notice(event)

    def end_line(self) -> None:
        """Finish a line that is still open."""
        self._words(*self._held, whole=True)
        if self._mid_line:
            self._write("\n")

    def line(self, text: str | Text, style: str = "") -> None:
        """Print a line of our own, on a line of its own."""
        self.end_line()
        self._out.print(Text(text, style=style) if isinstance(text, str) else text)

    def _partial(self, event: pb.SessionEvent) -> None:
        part = event.partial_message
        kind = part.WhichOneof("delta")
        if event.parent_tool_use_id or kind not in {"text", "thinking"}:
            self._index = -1 if part.event_type == "message_start" else self._index
            return
        piece = part.text if kind == "text" else part.thinking
        if part.index == self._index and self._streamed and self._streamed[-1][0] == kind:
            self._streamed[-1] = (kind, self._streamed[-1][1] + piece)
        else:
            self._streamed.append((kind, piece))
        self._index = part.index
        self._words(kind, piece)

    def _block(self, block: pb.ContentBlock, *, subagent: bool) -> None:
        kind = block.WhichOneof("block")
        if kind in {"text", "thinking"}:
            whole = block.text.text if kind == "text" else block.thinking.thinking
            if not (subagent and self._quiet):
                self._rest(str(kind), whole, streamed=not subagent)
        elif kind in {"tool_use", "server_tool_use"} and not self._quiet:
            self._tool(block.tool_use if kind == "tool_use" else block.server_tool_use, subagent=subagent)
        elif kind in {"tool_result", "server_tool_result"} and not self._quiet:
            self._tool_result(block.tool_result if kind == "tool_result" else block.server_tool_result)

    def _rest(self, kind: str, whole: str, *, streamed: bool) -> None:
        """Print what has not been seen of a text: after a cut, pieces may be missing."""
        shown = self._take_streamed(kind) if streamed else ""
        if shown and not whole.startswith(shown):
            self.end_line()
            shown = ""
        self._words(kind, whole[len(shown) :], whole=True)
        self.end_line()

    def _take_streamed(self, kind: str) -> str:
        found = next((each for each in self._streamed if each[0] == kind), None)
        if found is None:
            return ""
        self._streamed.remove(found)
        return found[1]

    def _words(self, kind: str, text: str, *, whole: bool = False) -> None:
        """Print words. The end of a piece is held back while the next one may belong to the same emoji or word."""
        held, self._held = self._held, ("", "")
        if held[0] == kind:
            text = held[1] + text
        elif held[1]:
            self._words(*held, whole=True)
        if not whole and (unfinished := _UNFINISHED.search(text)):
            self._held = (kind, unfinished[0])
            text = text[: unfinished.start()]
        if text and not (kind == "thinking" and self._quiet):
            self._write(visible(text), "dim italic" if kind == "thinking" else "")

    def _user(self, event: pb.SessionEvent) -> None:
        for block in event.user_message.content:
            if block.HasField("tool_result") and not self._quiet:
                self._tool_result(block.tool_result)
            elif block.HasField("text") and self._prompts and not self._quiet and not event.parent_tool_use_id:
                self.line(f"> {visible(block.text.text)}", "bold cyan")

    def _tool(self, call: pb.ToolUseBlock, *, subagent: bool) -> None:
        name = visible_line(call.name)
        indent = "  " if subagent else ""
        head, *more = f"{indent}{name}  {tool_input(call.name, call.input_json)}".split("\n")
        self.line("\n".join([head.rstrip(), *more]), "yellow")

    def _tool_result(self, result: pb.ToolResultBlock) -> None:
        lines = visible(result.text or result.content_json).rstrip("\n").split("\n")
        shown = [f"  {narrow(each, MAX_WIDTH)}" for each in lines[:MAX_LINES]]
        if len(lines) > MAX_LINES:
            shown.append(f"  … {len(lines) - MAX_LINES} more lines")
        if lines != [""]:
            self.line("\n".join(shown), "red" if result.is_error else "dim")

    def _interaction(self, interaction: pb.Interaction) -> None:
        self.line(question(interaction), "bold magenta")

    def _notice(self, event: pb.SessionEvent) -> None:
        if event.HasField("task"):
            task = event.task
            what = visible_line(task.summary or task.description or task.last_tool_name or task.task_id)
            self.line(f"· background {visible_line(task.status) or event.type.removeprefix('task.')}: {what}", "dim")
        elif event.HasField("rate_limit") and event.rate_limit.status != "allowed":
            limit = event.rate_limit
            self.line(f"· rate limit {visible_line(limit.status)} ({visible_line(limit.rate_limit_type)})", "yellow")
        elif event.HasField("warning"):
            self.line(f"warning: {visible(event.warning.message)}", "yellow")
        elif event.HasField("stderr_output"):
            self.line(visible(event.stderr_output.text).rstrip("\n"), "dim red")
        elif event.HasField("system_message"):
            self._system(event.system_message)
        elif event.HasField("interaction_resolved"):
            self._resolved(event.interaction_resolved.interaction)

    def _system(self, notice: pb.SystemMessage) -> None:
        if notice.subtype in {"api_retry", "compact_boundary"}:
            self.line(f"· {notice.subtype.replace('_', ' ')}", "dim")
        elif notice.subtype in {"init", "permission_denied"}:
            for line in notices(notice):
                self.line(f"· {line}", "yellow")

    def _resolved(self, interaction: pb.Interaction) -> None:
        outcome = word(pb.InteractionState.Name(interaction.state), "INTERACTION_STATE_")
        by = f" by {visible_line(interaction.resolved_by)}" if interaction.resolved_by else ""
        self.line(f"· {visible_line(interaction.tool_name) or 'question'} {outcome}{by}", "dim")

    def _write(self, text: str, style: str = "") -> None:
        self._out.print(Text(text, style=style), end="")
        self._out.file.flush()
        self._mid_line = not text.endswith("\n")


def summary(result: RunResult) -> Text:
    """Make the one line that ends a run."""
    turn, usage = result.turn, result.turn.result
    facts = [f"{usage.num_turns} {'turn' if usage.num_turns == 1 else 'turns'}"] if usage.num_turns else []
    facts += [f"${result.cost_usd:.4f}"] if turn.HasField("result") else []
    facts += [f"{result.duration.total_seconds():.1f} s", f"session {visible_line(result.session_id)}"]
    if result.ok:
        return Text(" · ".join(["✓ completed", *facts]), style="green")
    if result.cancelled:
        return Text(" · ".join(["■ cancelled", *facts]), style="yellow")
    ending = _PHASE_WORDS.get(result.session.phase, "failed")
    return Text(" · ".join([f"✗ {ending}: {visible_line(result.why)}", *facts]), style="red")
