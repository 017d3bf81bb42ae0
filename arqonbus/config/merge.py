"""Merge of layers with pydantic-settings; the last layer wins.

Mappings are merged, lists and single values are replaced. Pure: the given layers are the only sources,
neither environment nor files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from arqonbus.config.layer import Layer


class _LayerSource(PydanticBaseSettingsSource):
    """A layer as a settings source.

    Sources of one class need distinct names, else they overwrite each other.
    """

    def __init__(self, settings_cls: type[BaseSettings], layer: Layer, position: int) -> None:
        super().__init__(settings_cls)
        self._layer = layer
        self.__name__ = f"{position}:{layer.name}"

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self._layer.data, field_name, False

    def __call__(self) -> dict[str, Any]:
        return {"profile": self._layer.data}


class _Merged(BaseSettings):
    """The merged values before validation, so that secrets can be resolved in between."""

    model_config = SettingsConfigDict(extra="ignore", hide_input_in_errors=True)

    profile: dict[str, Any] = {}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        layers: Sequence[Layer] = init_settings()["layers"]
        sources = [_LayerSource(settings_cls, layer, position) for position, layer in enumerate(layers)]
        return tuple(reversed(sources))


def merge(layers: Sequence[Layer]) -> dict[str, Any]:
    """Merge the layers, given lowest first."""
    return _Merged(layers=layers).profile if layers else {}  # type: ignore[call-arg]


__all__ = ["merge"]
