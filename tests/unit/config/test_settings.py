"""The settings tree: what every setting declares, what rooms get, what the schema says."""

import json
from pathlib import Path

import pytest

from arqonbus.config import Settings, load
from arqonbus.config.environment import ALIASES, variables
from arqonbus.config.schema import profile_schema, profile_schema_text
from arqonbus.config.tree import leaves, sections

PROFILES = Path(__file__).parents[3] / "profiles"


@pytest.mark.parametrize("key", [leaf.key for leaf in leaves().values()])
def test_every_setting_explains_itself(key: str) -> None:
    """A description that is a sentence, an example that is accepted, a reload class, a first version."""
    leaf = leaves()[tuple(key.split("."))]
    assert leaf.field.description
    assert leaf.field.description.endswith(".")
    extra = leaf.field.json_schema_extra
    assert isinstance(extra, dict)
    assert extra["reload"] in {"hot", "rolling", "cold"}
    assert extra["since"]
    example = (leaf.field.examples or [None])[0]
    value = "x" * 40 if isinstance(example, dict) and "from" in example else example
    tree: object = value
    for part in reversed(leaf.path):
        tree = {part: tree}
    if key == "auth.jwt.previous_secret.value":
        tree = {"auth": {"jwt": {"previous_secret": {"value": value, "valid_until": "2030-01-31T00:00:00Z"}}}}
    if key == "bridge.mappings":
        tree = {"bridge": {"mappings": value}, "datastores": {"nats": {"url": "nats://nats:4222"}}}
    assert Settings.model_validate(tree)


def test_every_alias_of_a_variable_names_a_setting() -> None:
    """And every setting has a variable."""
    assert {tuple(key.split(".")) for key in ALIASES.values()} <= set(leaves())
    assert {leaf.path for leaf in variables().values()} == set(leaves())


@pytest.mark.parametrize(
    ("room", "kept", "messages", "age", "slow", "durability"),
    [
        ("orders.new", True, 5, 7 * 86_400_000_000, "drop_oldest", "durable"),
        ("orders.off", True, 5, 7 * 86_400_000_000, "drop_oldest", "durable"),
        ("ticks", False, 10_000, 86_400_000_000, "latest", "hot"),
        ("other", True, 10_000, 86_400_000_000, "disconnect", "hot"),
    ],
)
def test_the_first_rule_that_matches_is_a_rooms_only_one(
    room: str, kept: bool, messages: int, age: int, slow: str, durability: str
) -> None:
    """What the rule leaves out is as in storage."""
    settings = Settings.model_validate(
        {
            "rooms": [
                {
                    "match": "orders.*",
                    "history": {"max_messages": 5, "max_age": "7d"},
                    "slow_consumer": "drop_oldest",
                    "durability": "durable",
                    "schema": ["order"],
                },
                {"match": "*.off", "history": "off"},
                {"match": "ticks", "history": "off", "slow_consumer": "latest", "grants": ["subscribe"]},
            ],
            "schemas": [{"name": "order", "content_type": "application/json", "file": "order.json"}],
        }
    )
    found = settings.room_settings(room)
    assert (found.history, found.max_messages, found.max_age_us) == (kept, messages, age)
    assert (found.slow_consumer, found.durability) == (slow, durability)


def test_a_postgres_address_is_built_from_parts_without_a_password() -> None:
    """Nothing that is logged holds the password."""
    parts = {"host": "::1", "user": "a b", "password": "pw", "database": "d/b"}
    postgres = Settings.model_validate({"datastores": {"postgres": parts}}).datastores.postgres
    assert postgres.dsn() == "postgresql://a%20b@[::1]:5432/d%2Fb"
    assert Settings().datastores.postgres.dsn() is None
    assert not Settings().datastores.postgres.configured


@pytest.mark.parametrize(
    "tree",
    [
        {"server": {"port": 0}},
        {"server": {"port": True}},
        {"server": {"port": 9100.5}},
        {"server": {"host": ""}},
        {"server": {"public_url": "https://bus"}},
        {"server": {"origins": "https://a"}},
        {"state_dir": ""},
        {"auth": {"jwt": {"algorithms": []}}},
        {"auth": {"jwt": {"algorithms": ["none"]}}},
        {"auth": {"jwt": {"public_keys": [{}]}}},
        {"auth": {"jwt": {"previous_secret": {"value": "x"}}}},
        {"auth": {"jwt": {"previous_secret": {"valid_until": "2030-01-31T00:00:00"}}}},
        {"datastores": {"valkey": {"url": "http://x"}}},
        {"datastores": {"postgres": {"pool": {"min": 5, "max": 2}}}},
        {"limits": {"send_queue_bytes": "1B"}},
        {"environment": "qa"},
        {"features": {"teleport": True}},
    ],
)
def test_what_is_malformed_everywhere_is_refused_by_the_tree(tree: dict[str, object]) -> None:
    """Types, ranges and rules within one section."""
    with pytest.raises(ValueError, match="validation error"):
        Settings.model_validate(tree)


def test_the_schema_in_the_repository_is_the_one_of_this_code() -> None:
    """Editors check what the bus checks."""
    assert (PROFILES / "profile.schema.json").read_text("utf-8") == profile_schema_text()


def test_the_schema_knows_every_setting_and_lets_secrets_be_references() -> None:
    """Unknown keys are errors in the editor too."""
    schema = profile_schema()
    for path in sections() | {()}:
        node = schema
        for part in path:
            node = schema["$defs"][node["properties"][part]["$ref"].rsplit("/", 1)[1]]
        assert node["additionalProperties"] is False
        assert {leaf[len(path)] for leaf in leaves() if leaf[: len(path)] == path} <= set(node["properties"])
    secret = schema["$defs"]["Jwt"]["properties"]["secret"]["anyOf"]
    assert {"$ref": "#/$defs/SecretReference"} in secret
    assert json.loads(profile_schema_text()) == schema


@pytest.mark.parametrize("name", ["dev", "staging", "prod"])
def test_the_profiles_of_the_repository_load(name: str) -> None:
    """And each names the schema in its first line."""
    resolved = load(name, root=PROFILES.parent, environ={}, secrets_dir=None, secrets_of=())
    assert resolved.settings.environment == name
    for file in (PROFILES / name / "profile.yaml", PROFILES / "base.yaml"):
        first = file.read_text("utf-8").splitlines()[0]
        prefix, _, schema = first.partition("$schema=")
        assert prefix == "# yaml-language-server: "
        assert (file.parent / schema).resolve() == PROFILES / "profile.schema.json"


def test_staging_differs_from_prod_in_names_only() -> None:
    """What is tried in staging is what runs in production."""
    trees = [
        load(name, root=PROFILES.parent, environ={}, secrets_of=()).redacted() for name in ("staging", "prod")
    ]
    staging, prod = ({leaf.key: _at(tree, leaf.path) for leaf in leaves().values()} for tree in trees)
    assert {key for key in staging if staging[key] != prod[key]} == {
        "environment",
        "server.public_url",
        "server.origins",
        "datastores.valkey.url",
        "datastores.postgres.host",
        "auth.jwt.issuer",
    }


def _at(tree: object, path: tuple[str, ...]) -> object:
    for part in path:
        assert isinstance(tree, dict)
        tree = tree[part]
    return tree


@pytest.mark.parametrize("name", ["staging", "prod"])
def test_staging_and_prod_are_strict(name: str) -> None:
    """The rules of the design that a profile can keep by itself."""
    settings = load(name, root=PROFILES.parent, environ={}, secrets_of=()).settings
    storage, protocol = settings.storage, settings.protocol
    assert (storage.backend, storage.mode, storage.durability) == ("valkey", "strict", "durable")
    assert storage.require_dual_data_stack
    assert (protocol.infra, protocol.allow_json_infra, protocol.schema_strict) == ("protobuf", False, True)
    assert settings.datastores.postgres.sslmode == "verify-full"
