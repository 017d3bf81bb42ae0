"""Load a profile: from files, secrets, variables and options to settings.

Reads the profile's files and the given environment; writes nothing. Reports all faults in one pass, as far as
the files can be parsed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from arqonbus.config import redaction
from arqonbus.config.environment import foreign_variables, read_environment
from arqonbus.config.faults import section_message, validation_findings
from arqonbus.config.findings import ConfigError, Fault, Finding, Location, dotted
from arqonbus.config.layer import Layer, LayerFile, read_layer
from arqonbus.config.merge import merge
from arqonbus.config.overrides import read_overrides
from arqonbus.config.profile_files import ProfileFiles, find_profile
from arqonbus.config.provenance import Provenance, value_at
from arqonbus.config.secrets import (
    FOLLOWED_ONCE,
    Reference,
    Vault,
    is_reference_text,
    parse_reference,
    read_secrets,
    secrets_directories,
    unreadable,
)
from arqonbus.config.settings import Settings, environment_name
from arqonbus.config.tree import leaves, sections
from arqonbus.config.url import holds_secret

_DEFAULTS = Location("defaults", "the defaults")


@dataclass(frozen=True, slots=True)
class ExplanationStep:
    """The redacted value of a setting in one layer."""

    value: Any
    location: Location


@dataclass(frozen=True, slots=True)
class SettingExplanation:
    """The effective value of a setting with its location, and the values that it overrides, nearest first."""

    key: str
    value: Any
    location: Location
    overridden: tuple[ExplanationStep, ...]


@dataclass(frozen=True)
class Resolved:
    """A loaded profile: its settings and their origin."""

    profile: str
    settings: Settings
    provenance: Provenance

    @cached_property
    def digest(self) -> str:
        return redaction.digest(self.settings)

    def redacted(self) -> dict[str, Any]:
        """The settings as plain JSON values without secrets."""
        return redaction.redacted(self.settings)

    def location(self, key: str) -> Location:
        """Location of the value of a key such as `server.port`; the defaults if it is not set."""
        given = self.provenance.given(tuple(key.split(".")))
        return given[0].location if given else _DEFAULTS

    def explain(self, key: str) -> SettingExplanation:
        """Explain one setting by its dotted key. Raises KeyError for an unknown key."""
        path = tuple(key.split("."))
        leaf = leaves()[path]
        value: Any = self.redacted()
        default: Any = redaction.redacted(Settings())
        for part in path:
            value, default = value[part], default[part]
        given = self.provenance.given(path)
        steps = [ExplanationStep(redaction.redact_at(path, each.value), each.location) for each in given]
        if not steps:
            return SettingExplanation(leaf.key, value, _DEFAULTS, ())
        return SettingExplanation(
            leaf.key, value, steps[0].location, (*steps[1:], ExplanationStep(default, _DEFAULTS))
        )


def load(
    profile: str | Path = "dev",
    *,
    root: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Sequence[str] = (),
    secrets_dir: str | os.PathLike[str] | None = None,
    profiles_dir: Path | None = None,
    secrets_of: Sequence[str] = ("",),
) -> Resolved:
    """Load a profile by name or path. Raises ConfigError with all faults.

    `root`: directory of ./profiles (default: the working directory). `environ`: variables (default: the
    process's). `overrides`: `a.b=c`. `secrets_of`: prefixes of keys whose secrets are resolved (default: all;
    (): none), to inspect a profile on a machine without its secrets. An unresolved secret is a mask; the
    digest is the same.
    """
    root = (root or Path.cwd()).absolute()
    environ = os.environ if environ is None else environ
    # dynaconf reads the process's environment even if the caller passes another one.
    foreign = foreign_variables({**os.environ, **environ})
    if foreign:
        raise ConfigError(foreign)
    found = find_profile(profile, root=root, environ=environ, profiles_dir=profiles_dir)
    return _Loading(root, environ, found).run(overrides, secrets_dir, tuple(secrets_of))


class _Loading:
    """A load in progress, with its findings so far."""

    def __init__(self, root: Path, environ: Mapping[str, str], profile: ProfileFiles) -> None:
        self._root = root
        self._environ = environ
        self._profile = profile
        self._findings: list[Finding] = []

    def run(
        self,
        overrides: Sequence[str],
        secrets_dir: str | os.PathLike[str] | None,
        secrets_of: tuple[str, ...],
    ) -> Resolved:
        files = [layer for file in self._profile.files if (layer := self._file(file))]
        directories = secrets_directories(secrets_dir, self._environ)
        upper = []
        for layer, findings in (
            read_secrets(directories, secrets_of),
            read_environment(self._environ),
            read_overrides(overrides),
        ):
            upper.append(layer)
            self._findings += findings
        overlay = self._overlay(Provenance([*files, *upper]))
        layers = [self._with_references(self._with_sections(layer)) for layer in [*files, *overlay, *upper]]
        provenance = Provenance(layers)
        environment = self._environment(provenance)
        if environment != "dev":
            self._refuse_shortcuts(provenance)
        vault = Vault(self._environ, directories)
        values = self._resolve(merge(layers), provenance, vault, secrets_of)
        return self._settle(values, provenance)

    def _file(self, file: LayerFile) -> Layer | None:
        try:
            return read_layer(file)
        except ConfigError as error:
            self._findings += error.findings
            return None

    def _overlay(self, provenance: Provenance) -> list[Layer]:
        given = provenance.given(("host_overlay",))
        if not given or not isinstance(given[0].value, str) or not given[0].value:
            return []
        path = self._root / given[0].value
        layer = self._file(LayerFile("overlay", path, str(given[0].value)))
        if layer and "host_overlay" in layer.data:
            message = "host_overlay is set in an overlay; declare it in the profile"
            self._findings.append(
                Finding(Fault.BAD_VALUE, message, layer.place(("host_overlay",)), "host_overlay")
            )
        return [layer] if layer else []

    def _with_sections(self, layer: Layer) -> Layer:
        """The layer with malformed sections replaced by empty ones, and reported.

        Otherwise a higher layer would hide them, or they would hide a lower one.
        """
        data = layer.data
        for path in sorted(sections()):
            value = value_at(data, path, {})
            if not isinstance(value, dict):
                finding = Finding(
                    Fault.BAD_VALUE, section_message(path, value), layer.place(path), dotted(path)
                )
                self._findings.append(finding)
                data = _replaced(data, path, {})
        return Layer(layer.name, layer.source, data, layer.places)

    def _with_references(self, layer: Layer) -> Layer:
        """The layer with each `{from: …}` as one value, so that a higher layer replaces it as a whole."""
        data = layer.data
        for path, leaf in leaves().items():
            value = value_at(layer.data, path)
            if leaf.secrecy != "value" or value is None:
                continue
            try:
                data = _replaced(data, path, _secret_or_reference(value))
            except ValueError as error:
                place = layer.place(path)
                self._findings.append(Finding(Fault.BAD_REFERENCE, f"{leaf.key} {error}", place, leaf.key))
                data = _replaced(data, path, None)
        return Layer(layer.name, layer.source, data, layer.places)

    def _environment(self, provenance: Provenance) -> str:
        given = provenance.given(("environment",))
        environment = environment_name(str(given[0].value)) if given else "dev"
        directory = self._profile.name
        if given and directory in {"dev", "staging", "prod"} and environment != directory:
            message = (
                f"environment is {environment!r}, but the profile is in the directory {directory}; "
                "load the profile of the environment, or correct environment"
            )
            self._findings.append(
                Finding(Fault.ENVIRONMENT_MISMATCH, message, given[0].location, "environment")
            )
        return environment

    def _refuse_shortcuts(self, provenance: Provenance) -> None:
        for path, leaf in leaves().items():
            for each in provenance.given(path) if leaf.secrecy != "no" else ():
                value, place = each.value, each.location
                literal = isinstance(value, str) and (leaf.secrecy == "value" or holds_secret(value))
                if literal and place.layer not in {"secrets", "environment"}:
                    message = (
                        f"{leaf.key} holds a secret literally; remove it and write "
                        f"{{from: credential, name: {'_'.join(path[-2:])}}}"
                    )
                    self._findings.append(Finding(Fault.LITERAL_SECRET, message, place, leaf.key))
        path = ("auth", "jwt", "skip_validation")
        for each in provenance.given(path):
            message = "auth.jwt.skip_validation is not allowed outside dev, not even as false; remove it"
            self._findings.append(
                Finding(Fault.VALIDATION_SKIPPED, message, each.location, "auth.jwt.skip_validation")
            )

    def _resolve(
        self, values: dict[str, Any], provenance: Provenance, vault: Vault, secrets_of: tuple[str, ...]
    ) -> dict[str, Any]:
        for path, leaf in leaves().items():
            given = provenance.given(path) if leaf.secrecy != "no" else []
            if not given or not isinstance(given[0].value, Reference):
                continue
            try:
                followed = leaf.key.startswith(secrets_of)
                secret = vault.resolve(given[0].value) if followed else redaction.MASK
                values = _replaced(values, path, secret)
            except ValueError as error:
                self._findings.append(unreadable(leaf.key, error, given[0].location))
                values = _replaced(values, path, None)
        return values

    def _settle(self, values: dict[str, Any], provenance: Provenance) -> Resolved:
        try:
            settings = Settings.model_validate(values)
        except ValidationError as error:
            self._findings += validation_findings(error, values, provenance)
            # Not chained: the traceback of a ValidationError could contain inputs.
            raise ConfigError(self._findings) from None
        if self._findings:
            raise ConfigError(self._findings)
        return Resolved(self._profile.name, settings, provenance)


def _secret_or_reference(value: Any) -> Any:
    """The secret or reference in a layer's value. Raises ValueError; the message continues after the key."""
    if isinstance(value, str) and is_reference_text(value):
        raise ValueError(f"is the text of a reference instead of the secret; {FOLLOWED_ONCE}")
    return parse_reference(value) if isinstance(value, dict) else value


def _replaced(data: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A copy of nested mappings with one value replaced."""
    head, *rest = path
    inner = _replaced(data[head], tuple(rest), value) if rest else value
    return {**data, head: inner}


__all__ = ["ExplanationStep", "Resolved", "SettingExplanation", "load"]
