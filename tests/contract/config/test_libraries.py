"""What this package relies on in dynaconf and pydantic-settings, and what it keeps out.

Each test pins one habit of a library, so that an upgrade that changes it fails here and not at a start.
"""

import os
from pathlib import Path
from typing import Any

import pytest
from dynaconf import Dynaconf
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from arqonbus.config import ConfigError, load
from arqonbus.config.layer import Layer, LayerFile, read_layer
from arqonbus.config.merge import merge


def layer(tmp_path: Path, text: str, name: str = "profile.yaml") -> Any:
    file = tmp_path / name
    file.write_text(text, "utf-8")
    return read_layer(LayerFile("profile", file, name)).data


def plain(tmp_path: Path, **files: str) -> Any:
    names = []
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text, "utf-8")
        names.append(f"{name}.yaml")
    return Dynaconf(settings_files=names, root_path=str(tmp_path), core_loaders=["YAML"], merge_enabled=True)


def test_dynaconf_concatenates_lists_and_we_do_not_let_it(tmp_path: Path) -> None:
    """Merging is not dynaconf's here: one instance holds one file."""
    assert plain(tmp_path, one="a: [1]\n", two="a: [2]\n").A == [1, 2]
    assert layer(tmp_path, "a: [2]\n") == {"a": [2]}


def test_dynaconf_executes_strings_and_we_do_not_let_it(tmp_path: Path) -> None:
    """A value that begins with @ is that value."""
    assert plain(tmp_path, one="a: '@int 5'\n").A == 5
    text = "a: '@int 5'\nb: {c: '@format {env[HOME]}', d: ['@jinja {{ 1 }}']}\ne: '@merge x'\n"
    assert layer(tmp_path, text) == {
        "a": "@int 5",
        "b": {"c": "@format {env[HOME]}", "d": ["@jinja {{ 1 }}"]},
        "e": "@merge x",
    }


def test_dynaconf_upper_cases_keys_and_we_do_not_let_it(tmp_path: Path) -> None:
    """`Server` and `server` are different keys, and only one of them is a setting."""
    assert list(plain(tmp_path, one="server: {Port: 1}\n").as_dict()) == ["SERVER"]
    assert layer(tmp_path, "server: {Port: 1}\nServer: 2\n") == {"server": {"Port": 1}, "Server": 2}


def test_dynaconf_reads_local_files_and_hooks_and_we_do_not_let_it(tmp_path: Path) -> None:
    """Files beside a profile are neither read nor executed."""
    (tmp_path / "one.local.yaml").write_text("a: 2\n")
    assert plain(tmp_path, one="a: 1\n").A == 2
    (tmp_path / "profile.local.yaml").write_text("a: 2\n")
    (tmp_path / ".secrets.yaml").write_text("a: 3\n")
    (tmp_path / "dynaconf_hooks.py").write_text("raise SystemExit('executed')\n")
    (tmp_path / ".env").write_text("A=4\n")
    assert layer(tmp_path, "a: 1\n") == {"a": 1}


def test_dynaconf_takes_a_missing_file_for_an_empty_one_and_we_do_not(tmp_path: Path) -> None:
    """A file that was named must be there."""
    assert "A" not in Dynaconf(settings_files=["absent.yaml"], root_path=str(tmp_path))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_layer(LayerFile("profile", tmp_path / "absent.yaml", "absent.yaml"))


@pytest.mark.parametrize(
    "key", ["dynaconf_merge", "dynaconf_include", "includes_for_dynaconf", "a__b", "a.b", "default"]
)
def test_keys_that_mean_something_to_dynaconf_mean_nothing_here(tmp_path: Path, key: str) -> None:
    """They arrive as keys, and are then unknown settings."""
    assert layer(tmp_path, f"'{key}': true\n") == {key: True}


def test_dynaconfs_variables_override_code_and_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when they stand only in the environment of the process."""
    monkeypatch.setenv("MERGE_ENABLED_FOR_DYNACONF", "false")
    assert plain(tmp_path, one="a: [1]\n", two="a: [2]\n").A == [2]
    with pytest.raises(ConfigError, match="MERGE_ENABLED_FOR_DYNACONF would change how profiles are read"):
        load("dev", environ={})


@pytest.mark.parametrize("name", ["PYDANTIC_SETTINGS_DEBUG", "ENV_FOR_DYNACONF", "DYNACONF_SERVER__PORT"])
def test_variables_that_reach_into_the_libraries_are_refused(name: str) -> None:
    """Whatever their value; one of them would log secrets."""
    with pytest.raises(ConfigError, match=name):
        load("dev", environ={name: "1"})


def test_the_environment_of_the_process_does_not_leak_into_a_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables count when the caller gives them, in their own layer."""
    monkeypatch.setenv("SERVER", "x")
    monkeypatch.setenv("ARQONBUS_SERVER_PORT", "1")
    assert layer(tmp_path, "a: 1\n") == {"a": 1}
    assert load("dev", environ={}).settings.server.port == 9100
    assert load("dev").settings.server.port == 1
    assert os.environ["ARQONBUS_SERVER_PORT"] == "1"


def test_sources_of_one_class_need_a_name_each() -> None:
    """pydantic-settings tells sources apart by `__name__`, and merges them by order, lists replacing."""

    class Source(PydanticBaseSettingsSource):
        def __init__(self, kind: type[BaseSettings], name: str, value: dict[str, Any]) -> None:
            super().__init__(kind)
            self.__name__ = name
            self.value = value

        def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
            return None, field_name, False

        def __call__(self) -> dict[str, Any]:
            seen.append(dict(self.settings_sources_data))
            return {"tree": self.value}

    class Merged(BaseSettings):
        tree: dict[str, Any] = {}

        @classmethod
        def settings_customise_sources(cls, settings_cls: type[BaseSettings], **_: Any) -> Any:
            return Source(settings_cls, "high", {"a": [1], "b": {"c": 1}}), Source(
                settings_cls, "low", {"a": [2, 3], "b": {"d": 2}}
            )

    seen: list[dict[str, Any]] = []
    assert Merged().tree == {"a": [1], "b": {"c": 1, "d": 2}}
    assert list(seen[1]) == ["high"]


def test_pydantic_settings_ignores_unknown_variables_and_we_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt variable is told, because nobody else tells it."""

    class Plain(BaseSettings, env_prefix="ARQONBUS_"):
        port: int = 1

    monkeypatch.setenv("ARQONBUS_PROT", "2")
    assert Plain().port == 1
    with pytest.raises(ConfigError, match="ARQONBUS_PROT names no setting"):
        load("dev", environ={"ARQONBUS_PROT": "2"})


def test_pydantic_settings_merges_from_the_top_so_a_mapping_shines_through_a_value() -> None:
    """Which is why a section that holds a value is refused in every layer before they are merged."""
    layers = [Layer(str(index), "", {"a": value}) for index, value in enumerate([{"x": 1}, None, {"y": 2}])]
    assert merge(layers) == {"a": {"x": 1, "y": 2}}
