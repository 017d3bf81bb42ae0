"""Load a profile for checking: all settings that are valid, and all faults.

Normal loading returns no settings if it finds a fault, because the bus must not run with them. To check the
rest in the same pass, this module drops the faulty values and types the others again. The result is only
checked, never run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from arqonbus.config import ConfigError, Fault, Finding, Resolved, Settings, load
from arqonbus.config.environment import foreign_variables, read_environment
from arqonbus.config.findings import dotted
from arqonbus.config.layer import Layer, LayerFile, read_layer
from arqonbus.config.overrides import read_overrides
from arqonbus.config.profile_files import ProfileFiles, find_profile
from arqonbus.config.provenance import Provenance, value_at
from arqonbus.config.secrets import Vault, parse_reference, read_secrets, secrets_directories
from arqonbus.config.settings import environment_name
from arqonbus.config.tree import leaves, sections

Keys = tuple[str, ...]

# These make a whole file unusable: without it, the settings would be those of another profile.
_SPOILING = {
    Fault.PROFILE_MISSING,
    Fault.FILE_UNREADABLE,
    Fault.YAML_INVALID,
    Fault.YAML_TOO_LARGE,
    Fault.DUPLICATE_KEY,
}
# These concern a well-formed value, which is checked like any other.
_HARMLESS = {Fault.LITERAL_SECRET, Fault.VALIDATION_SKIPPED}


@dataclass(frozen=True)
class Source:
    """The arguments for loading a profile."""

    profile: str | Path = "dev"
    root: Path | None = None
    environ: Mapping[str, str] | None = None
    overrides: Sequence[str] = ()
    secrets_dir: str | os.PathLike[str] | None = None
    profiles_dir: Path | None = None


@dataclass(frozen=True)
class Intake:
    """`resolved`: the settings to check. `broken`: the dropped keys, with the fault of each. `unread`: why no
    setting can be checked, or empty."""

    resolved: Resolved
    root: Path
    findings: tuple[Finding, ...] = ()
    broken: Mapping[str, Fault] | None = None
    unread: str = ""

    @property
    def profile_file(self) -> Path | None:
        """The profile's own file."""
        for layer in self.resolved.provenance.layers:
            if layer.name == "profile":
                return self.root / layer.source
        return None


def take_in(source: Source) -> Intake:
    """Load a profile for checking. Never raises for a fault in the profile."""
    root = (source.root or Path.cwd()).absolute()
    environ = dict(os.environ if source.environ is None else source.environ)
    foreign = foreign_variables({**os.environ, **environ})
    findings: tuple[Finding, ...] = ()
    clean = {name: value for name, value in environ.items() if not foreign_variables({name: value})}
    with _without_foreign():
        try:
            resolved = load(
                source.profile,
                root=root,
                environ=clean,
                overrides=source.overrides,
                secrets_dir=source.secrets_dir,
                profiles_dir=source.profiles_dir,
            )
            if not foreign:
                return Intake(resolved, root)
            return Intake(resolved, root, tuple(foreign))
        except ConfigError as error:
            findings = (*foreign, *error.findings)
        return _Salvage(source, root, clean, findings).intake()


@contextmanager
def _without_foreign() -> Iterator[None]:
    """Drop variables of the profile libraries: they are reported, and would make the result unreliable."""
    held = {name: os.environ.pop(name) for name in list(os.environ) if foreign_variables({name: ""})}
    try:
        yield
    finally:
        os.environ.update(held)


class _Salvage:
    """The second pass over a profile with faults."""

    def __init__(
        self, source: Source, root: Path, environ: Mapping[str, str], findings: tuple[Finding, ...]
    ) -> None:
        self._source = source
        self._root = root
        self._environ = environ
        self._findings = findings
        self._broken: dict[str, Fault] = {}

    def intake(self) -> Intake:
        spoiled = [finding for finding in self._findings if finding.code in _SPOILING]
        if spoiled:
            return self._nothing(f"the profile cannot be read as a whole ({spoiled[0].code})")
        found = find_profile(
            self._source.profile,
            root=self._root,
            environ=self._environ,
            profiles_dir=self._source.profiles_dir,
        )
        for finding in self._findings:
            if finding.key and finding.code not in _HARMLESS:
                path = finding.key.partition("[")[0]
                if tuple(path.split(".")) in {*leaves(), *sections()}:
                    self._broken[path] = finding.code
        directories = secrets_directories(self._source.secrets_dir, self._environ)
        layers = [self._readable(layer) for layer in self._layers(found, directories)]
        values = self._with_environment(_merged(layers), found)
        settings = self._typed(values)
        if settings is None:
            return self._nothing("its values cannot be validated")
        resolved = Resolved(found.name, settings, Provenance(layers))
        return Intake(resolved, self._root, self._findings, dict(self._broken))

    def _nothing(self, why: str) -> Intake:
        resolved = Resolved(str(self._source.profile), Settings(), Provenance(()))
        return Intake(resolved, self._root, self._findings, {}, why)

    def _layers(self, found: ProfileFiles, directories: Sequence[Path]) -> list[Layer]:
        files = [read_layer(file) for file in found.files]
        upper = [
            read_secrets([each for each in directories if each.is_dir()])[0],
            read_environment(self._environ)[0],
            read_overrides(self._source.overrides)[0],
        ]
        declared = Provenance([*files, *upper]).given(("host_overlay",))
        if declared and isinstance(declared[0].value, str) and declared[0].value:
            shown = declared[0].value
            files.append(read_layer(LayerFile("overlay", self._root / shown, shown)))
        self._vault = Vault(self._environ, directories)
        return [*files, *upper]

    def _readable(self, layer: Layer) -> Layer:
        """The layer without its faulty values and with its references resolved."""
        data: dict[str, Any] = _known(layer.data, ())
        for key in self._broken.keys() - {"environment"}:
            data = _without(data, tuple(key.split(".")))
        for path, leaf in leaves().items():
            value = value_at(data, path)
            if leaf.secrecy == "value" and isinstance(value, dict):
                data = self._followed(data, path, value)
        return Layer(layer.name, layer.source, data, layer.places)

    def _followed(self, data: dict[str, Any], path: Keys, value: Mapping[str, Any]) -> dict[str, Any]:
        try:
            secret = self._vault.resolve(parse_reference(value))
        except ValueError:
            # An overridden reference may be broken: loading does not resolve it, so it is not a finding.
            return _without(data, path)
        return _with(data, path, secret)

    def _with_environment(self, values: dict[str, Any], found: ProfileFiles) -> dict[str, Any]:
        """Use the stricter environment if the environment is unclear."""
        doubtful = "environment" in self._broken
        named = str(values.get("environment", "dev"))
        environment = environment_name(named)
        if doubtful:
            environment = found.name if found.name in {"staging", "prod"} else "prod"
            del self._broken["environment"]
        return {**values, "environment": environment}

    def _typed(self, values: dict[str, Any]) -> Settings | None:
        for _ in range(8):  # each round drops what the previous one found; a section's fault can hide others
            try:
                return Settings.model_validate(values)
            except ValidationError as error:
                for detail in error.errors(include_url=False, include_input=False, include_context=False):
                    path = tuple(part for part in _to_first_index(detail["loc"]))
                    if not path:
                        return None
                    self._broken.setdefault(dotted(path), Fault.BAD_VALUE)
                    values = _without(values, path)
        return None


def _to_first_index(loc: Sequence[str | int]) -> Iterator[str]:
    for part in loc:
        if isinstance(part, int):
            return
        yield part


def _known(data: Any, prefix: Keys) -> dict[str, Any]:
    """Keep only values at the place of a setting, with mappings as sections."""
    kept: dict[str, Any] = {}
    for key, value in data.items():
        path = (*prefix, key)
        if path in leaves():
            kept[key] = value
        elif path in sections() and isinstance(value, dict):
            kept[key] = _known(value, path)
    return kept


def _without(data: dict[str, Any], path: Keys) -> dict[str, Any]:
    head, *rest = path
    if head not in data:
        return data
    if not rest:
        return {key: value for key, value in data.items() if key != head}
    return {**data, head: _without(data[head], tuple(rest))} if isinstance(data[head], dict) else data


def _with(data: dict[str, Any], path: Keys, value: Any) -> dict[str, Any]:
    head, *rest = path
    return {**data, head: _with(data[head], tuple(rest), value) if rest else value}


def _merged(layers: Sequence[Layer]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _over(merged, layer.data)
    return merged


def _over(lower: Any, upper: Any) -> Any:
    if isinstance(lower, dict) and isinstance(upper, dict):
        return {**lower, **{key: _over(lower.get(key), value) for key, value in upper.items()}}
    return upper


__all__ = ["Intake", "Source", "take_in"]
