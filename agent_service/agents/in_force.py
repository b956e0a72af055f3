"""InForce: the model, permission mode and effort of one connected agent, by what it was told and what it reports.

An agent changes them by itself: an approved plan ends plan mode, an answer with "always" may switch the mode, the
commands /model and /effort switch the others. So its reports count, and not what it was told last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Setting:
    """One setting. None stands for the agent's own choice, or for no report so far."""

    told: str | None = None
    reported: str | None = None
    changed: bool = False
    """Whether the agent has left what it was told, or what it chose at its start."""
    news: bool = False
    """Whether that is not taken note of yet."""
    aliases: bool = False
    """Whether the agent reports another name for what it was told, as for the model "sonnet"."""

    @property
    def value(self) -> str | None:
        """The value in force."""
        return self.told if self.reported is None else self.reported

    def tell(self, value: str) -> None:
        """Record that the agent was told a value and acknowledged it."""
        self.told, self.reported, self.changed, self.news = value, None, False, False

    def report(self, value: object) -> None:
        """Record what the agent says is in force."""
        if not isinstance(value, str) or not value or value == self.reported:
            return
        self.changed = self.reported is not None or (not self.aliases and self.told not in (None, value))
        if self.changed:
            self.told, self.news = None, True
        self.reported = value

    def take_change(self) -> bool:
        """Return whether the agent has changed the setting since the last call."""
        news, self.news = self.news, False
        return news

    def holds(self, wanted: str | None) -> bool:
        """Return whether `wanted` is in force; for None, whether the agent still has its own choice."""
        if wanted is None:
            return self.told is None and not self.changed
        return wanted == self.value or (self.aliases and wanted == self.told)


@dataclass
class InForce:
    """The settings of one agent that may change while it is connected."""

    model: Setting = field(default_factory=lambda: Setting(aliases=True))
    permission_mode: Setting = field(default_factory=Setting)
    effort: Setting = field(default_factory=Setting)

    @classmethod
    def at_start(cls, *, model: str | None, permission_mode: str | None, effort: str | None) -> InForce:
        """Return the settings of an agent that is started with these."""
        return cls(Setting(told=model, aliases=True), Setting(told=permission_mode), Setting(told=effort))

    def observe(self, frame: Mapping[str, Any]) -> None:
        """Record what a frame of the agent's says of them."""
        if frame.get("type") != "system":
            return
        if frame.get("subtype") == "init":
            self.model.report(frame.get("model"))
        if frame.get("subtype") in ("init", "status"):
            self.permission_mode.report(frame.get("permissionMode"))

    def observe_settings(self, settings: Mapping[str, Any]) -> None:
        """Record the agent's answer to the control request get_settings."""
        applied = settings.get("applied")
        if isinstance(applied, Mapping):
            self.model.report(applied.get("model"))
            self.effort.report(applied.get("effort"))
