"""Profiles: the settings tree, its layers, secrets, provenance, schema and digest.

Files, the environment and secrets are read only when `load` is called.
"""

from __future__ import annotations

from arqonbus.config.dev_key import with_dev_key
from arqonbus.config.findings import ConfigError, Fault, Finding, Location
from arqonbus.config.globs import Glob
from arqonbus.config.profile_files import profile_name
from arqonbus.config.redaction import Redactor
from arqonbus.config.resolve import Resolved, SettingExplanation, load
from arqonbus.config.rooms import Action, RoomSettings, SlowConsumer
from arqonbus.config.settings import Settings

__all__ = [
    "Action",
    "ConfigError",
    "Fault",
    "Finding",
    "Glob",
    "Location",
    "Redactor",
    "Resolved",
    "RoomSettings",
    "SettingExplanation",
    "Settings",
    "SlowConsumer",
    "load",
    "profile_name",
    "with_dev_key",
]
