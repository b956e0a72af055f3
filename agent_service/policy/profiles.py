"""Profiles: named options of the operator, one TOML file each, read again when a file changes."""

from __future__ import annotations

import logging
import re
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentpb import agent_pb2 as pb
from google.protobuf import json_format

from agent_service import options as translate
from agent_service.errors import CannotServe

log = logging.getLogger(__name__)

INTERVAL = 2.0
"""Seconds for which the files are taken to be as they were."""
SUFFIX = ".toml"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_KEYS = ("description", "options", "locked", "labels")


@dataclass(frozen=True)
class Profile:
    """Options under a name."""

    name: str
    options: pb.AgentOptions
    locked: frozenset[str] = frozenset()
    """Names of fields of AgentOptions that a request may not set: as the profile has them, or unset."""
    labels: Mapping[str, str] = field(default_factory=dict)
    description: str = ""


class Profiles:
    """The profiles of a directory: NAME.toml each. Without a directory there is none.

    A file that cannot be read is reported in the log, and everything stays as it was before.
    """

    def __init__(self, directory: Path | None = None) -> None:
        """Read the directory. Raises CannotServe."""
        self._directory = directory
        self._profiles: dict[str, Profile] = {}
        self._seen: object = None
        self._looked = float("-inf")
        if directory is not None:
            self._seen = self._files()
            self._profiles = _read(directory)
            self._looked = time.monotonic()

    def get(self, name: str) -> Profile | None:
        """Return the profile of this name; None when there is none."""
        self._refresh()
        return self._profiles.get(name)

    def names(self) -> list[str]:
        """Return the names of all profiles, sorted."""
        self._refresh()
        return sorted(self._profiles)

    def _refresh(self) -> None:
        if self._directory is None or time.monotonic() - self._looked < INTERVAL:
            return
        self._looked = time.monotonic()
        if (seen := self._files()) == self._seen:
            return
        self._seen = seen
        try:
            self._profiles = _read(self._directory)
        except CannotServe as problem:
            log.error("the profiles stay as they were: %s", problem)
            return
        log.info("profiles: %s", ", ".join(sorted(self._profiles)) or "none")

    def _files(self) -> object:
        """The files as they are now; equal as long as none has changed."""
        assert self._directory is not None
        try:
            found = {path: path.stat() for path in self._directory.iterdir() if path.suffix == SUFFIX}
        except OSError as error:
            return str(error)
        return {path: (status.st_ino, status.st_size, status.st_mtime_ns) for path, status in found.items()}


def _read(directory: Path) -> dict[str, Profile]:
    try:
        files = sorted(path for path in directory.iterdir() if path.suffix == SUFFIX)
    except OSError as error:
        raise CannotServe(f"the profiles cannot be read: {error}") from error
    return {path.stem: read_profile(path) for path in files}


def read_profile(path: Path) -> Profile:
    """Return the profile of a file. Raises CannotServe with what is wrong."""
    if not _NAME.fullmatch(path.stem):
        raise CannotServe(
            f"{path}: profiles are named with 1 to 128 of A-Z a-z 0-9 _ . - that begin with a letter or digit"
        )
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CannotServe(f"{path}: {error}") from error
    try:
        return _profile(path.stem, raw)
    except (ValueError, TypeError, AttributeError, json_format.ParseError) as error:  # of a table that is none, too
        raise CannotServe(f"{path}: {error}") from error


def _profile(name: str, raw: Mapping[str, Any]) -> Profile:
    if unknown := sorted(set(raw) - set(_KEYS)):
        raise ValueError(f"unknown keys {', '.join(unknown)}; known are {', '.join(_KEYS)}")
    options = json_format.ParseDict(raw.get("options", {}), pb.AgentOptions())
    violations = translate.check(options)
    if problem := translate.too_large(options):
        raise ValueError(f"options {problem}")
    if violations:
        raise ValueError("; ".join(f"{where}: {text}" for where, text in violations))
    if options.resume_at_message_uuid:
        raise ValueError("options.resume_at_message_uuid: is about one conversation, a profile is for many")
    locked, labels = raw.get("locked", []), raw.get("labels", {})
    if not isinstance(locked, list) or not set(locked) <= set(pb.AgentOptions.DESCRIPTOR.fields_by_name):
        raise ValueError("locked: must be names of fields of AgentOptions")
    pairs = list(labels.items()) if isinstance(labels, dict) else [(labels, "")]
    if not all(isinstance(text, str) and 0 < len(key) < 64 and len(text) < 256 for key, text in pairs):
        raise ValueError("labels: must be texts, keys of 1 to 63 characters and values of at most 255")
    description = raw.get("description", "")
    if not isinstance(description, str) or len(description) > 1024:
        raise ValueError("description: must be a text of at most 1024 characters")
    return Profile(name, options, frozenset(locked), labels, description)


def applied(request: pb.ExecuteRequest, profile: Profile, before: Profile | None, record: pb.Session) -> None:
    """Write a profile into a request as if the caller had set its options: below the caller's own, over the session's.

    What the session has of the profile that it had `before` is cleared. So a turn that waits needs no profile, and a
    change of the file does not reach it.
    """
    of_before = [
        field.name
        for field, value in (before.options.ListFields() if before is not None else ())
        if getattr(record.options, field.name) == value
    ]
    clear = {*request.clear_options, *of_before, *profile.locked}
    options = pb.AgentOptions()
    options.CopyFrom(profile.options)
    translate.lay_over(options, request.options)
    request.options.CopyFrom(options)
    request.clear_options[:] = sorted(clear)
    for key, text in profile.labels.items():
        request.labels.setdefault(key, text)


def set_names(request: pb.ExecuteRequest, locked: frozenset[str]) -> list[tuple[str, str]]:
    """Return the locked fields that a request sets or clears: its own path, and the name."""
    named = [(f"options.{each.name}", each.name) for each, _ in request.options.ListFields()]
    named += [(f"clear_options[{index}]", name) for index, name in enumerate(request.clear_options)]
    return [(path, name) for path, name in named if name in locked]
