"""Loading a profile: layers, precedence, all findings in one pass."""

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arqonbus.config import ConfigError, tree
from arqonbus.config.layer import Layer
from arqonbus.config.merge import merge
from arqonbus.config.provenance import Provenance

LAYERS = ["base", "profile", "overlay", "secrets", "environment", "set"]


@pytest.mark.parametrize("count", range(len(LAYERS) + 1))
def test_each_layer_goes_over_those_below_it(deployment: Any, count: int) -> None:
    """Of the layers that set the issuer, the highest one holds and explain tells all others."""
    overlay = deployment.root / "local.yaml"
    present = set(LAYERS[:count])
    issuer = "auth:\n  jwt:\n    issuer: {}\n"
    deployment.write("base.yaml", issuer.format("base") if "base" in present else "server: {port: 9100}\n")
    declared = f"environment: dev\nhost_overlay: {overlay}\n"
    deployment.write(
        "dev/profile.yaml", declared + (issuer.format("profile") if "profile" in present else "")
    )
    overlay.write_text(issuer.format("overlay") if "overlay" in present else "server: {port: 9100}\n")
    if "secrets" in present:
        deployment.secret("auth.jwt.issuer", "secrets\n")
    resolved = deployment.load(
        environ={"ARQONBUS_AUTH__JWT__ISSUER": "environment"} if "environment" in present else {},
        overrides=["auth.jwt.issuer=set"] if "set" in present else [],
    )
    why = resolved.explain("auth.jwt.issuer")
    expected = [*reversed(LAYERS[:count]), "defaults"]
    assert [why.location.layer, *(step.location.layer for step in why.overridden)] == expected
    assert resolved.settings.auth.jwt.issuer == (expected[0] if count else None)


def test_lists_replace_and_mappings_merge(deployment: Any) -> None:
    """A profile that names one origin has one origin, and keeps the other settings of the section."""
    deployment.write("base.yaml", "server:\n  port: 9200\n  origins: [https://a, https://b]\n")
    deployment.write("dev/profile.yaml", "environment: dev\nserver:\n  origins: [https://c]\n")
    server = deployment.load().settings.server
    assert (server.port, server.origins) == (9200, ("https://c",))


def test_a_place_names_file_line_and_column(deployment: Any) -> None:
    """Where a value stands can be opened in an editor."""
    deployment.write("dev/profile.yaml", "environment: dev\nserver:\n  host: 10.0.0.1\n")
    assert str(deployment.load().location("server.host")) == "profiles/dev/profile.yaml:3:3"
    assert str(deployment.load().location("server.port")) == "profiles/base.yaml:2:3"
    assert deployment.load().location("telemetry.port").layer == "defaults"
    resolved = deployment.load(environ={"ARQONBUS_SERVER_HOST": "10.0.0.2"})
    assert str(resolved.location("server.host")) == "ARQONBUS_SERVER_HOST"


def test_everything_that_is_wrong_is_found_in_one_pass(deployment: Any) -> None:
    """Files, variables, options and references are all judged before anything is told."""
    deployment.write(
        "dev/profile.yaml",
        "environment: dev\nserver:\n  prot: 1\n  port: 70000\nlimits:\n  ping_interval: soon\nrooms:\n"
        "  - match: 'a b'\n  - history: {max_age: x}\nstorage:\nauth:\n  jwt:\n    secret: {from: nowhere}\n",
    )
    found = deployment.findings(
        environ={"ARQONBUS_SERVER_HSOT": "x", "ARQONBUS_TELEMETRY_PORT": ""},
        overrides=["telemetry.log_level=loud", "nonsense", "preflight=1", "srver.port=1"],
    )
    assert found == [
        "BAD_OVERRIDE --set: --set takes key=value, such as --set server.port=9100",
        "BAD_OVERRIDE --set preflight: --set preflight names a section; set one of preflight.strict",
        "BAD_OVERRIDE --set srver.port: --set srver.port names no setting; "
        "did you mean server.port or telemetry.port or datastores.postgres.port?",
        "BAD_VALUE --set telemetry.log_level: telemetry.log_level is not one of 'debug', 'info', "
        "'warning' or 'error' (found 'loud')",
        "UNKNOWN_VARIABLE ARQONBUS_SERVER_HSOT: ARQONBUS_SERVER_HSOT names no setting; "
        "did you mean ARQONBUS_SERVER_HOST?",
        "EMPTY_VALUE ARQONBUS_TELEMETRY_PORT: ARQONBUS_TELEMETRY_PORT is empty; "
        "give it a value, or leave it out",
        "UNKNOWN_KEY profiles/dev/profile.yaml:3:3: server.prot is not a setting; did you mean server.port?",
        "BAD_VALUE profiles/dev/profile.yaml:4:3: server.port should be less than or "
        "equal to 65535 (found 70000)",
        "BAD_VALUE profiles/dev/profile.yaml:6:3: limits.ping_interval is not a duration; write "
        "seconds, or a number with ms, s, m, h or d: 5s (found 'soon')",
        "BAD_VALUE profiles/dev/profile.yaml:8:5: rooms[0].match is not a pattern of names; write "
        "1 to 128 of A-Z a-z 0-9 . _ - and * (any characters) (found 'a b')",
        "BAD_VALUE profiles/dev/profile.yaml:9:5: rooms[1].match is missing; add it",
        "BAD_VALUE profiles/dev/profile.yaml:9:15: rooms[1].history.max_age is not a duration; write "
        "seconds, or a number with ms, s, m, h or d: 5s (found 'x')",
        "BAD_VALUE profiles/dev/profile.yaml:10:1: storage is a section and has nothing under it; "
        "indent its settings below it, or remove the line",
        "BAD_REFERENCE profiles/dev/profile.yaml:13:5: auth.jwt.secret has no known source; "
        "write {from: file|credential|env|command, …}",
    ]


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("sever: {port: 1}", "did you mean server?"),
        ("port: 9100", "did you mean server.port or telemetry.port or datastores.postgres.port?"),
        ("server: {tls: {cert: x}}", "did you mean server.tls.cert_file?"),
        ("rooms: [{match: a, histroy: off}]", "did you mean rooms[0].history?"),
        ("xyzzy: 1", "there is: environment, host_overlay"),
    ],
)
def test_an_unknown_key_says_what_may_have_been_meant(deployment: Any, key: str, hint: str) -> None:
    """Misspelt and misplaced keys are told apart from invented ones."""
    deployment.write("dev/profile.yaml", f"environment: dev\n{key}\n")
    found = deployment.findings()
    assert len(found) == 1
    assert found[0].startswith("UNKNOWN_KEY")
    assert hint in found[0]


@pytest.mark.parametrize("name", ["ARQONBUS_NO_SUCH", "ARQONBUS_SERVER__PRT", "arqonbus_server_port"])
def test_a_variable_that_sets_nothing_is_refused(deployment: Any, name: str) -> None:
    """A misspelt variable would otherwise be a setting that silently does not hold."""
    assert deployment.findings(environ={name: "1"})[0].startswith(f"UNKNOWN_VARIABLE {name}")


def test_a_platform_that_injects_variables_is_named_as_the_cause(deployment: Any) -> None:
    """Kubernetes' service links for a service called arqonbus are not taken for settings."""
    found = deployment.findings(
        environ={"ARQONBUS_SERVICE_HOST": "10.0.0.1", "ARQONBUS_PORT": "tcp://10.0.0.1"}
    )
    assert len(found) == 2
    assert all("enableServiceLinks: false" in each for each in found)


def test_two_variables_for_one_setting_must_agree(deployment: Any) -> None:
    """Old and new names may both be set, to the same value."""
    both = {"ARQONBUS_REDIS_URL": "redis://a:1", "ARQONBUS_VALKEY_URL": "redis://a:1"}
    assert deployment.load(environ=both).settings.datastores.valkey.url == "redis://a:1"
    found = deployment.findings(environ={**both, "ARQONBUS_VALKEY_URL": "redis://b:1"})
    assert found[0].startswith("CONFLICTING_VARIABLES ARQONBUS_VALKEY_URL: ARQONBUS_REDIS_URL and")
    assert "redis://" not in found[0]


@pytest.mark.parametrize(
    ("name", "value", "key", "expected"),
    [
        ("ARQONBUS_ENVIRONMENT", "development", "environment", "dev"),
        ("ARQONBUS_SERVER_PORT", "9200", "server.port", 9200),
        ("ARQONBUS_SERVER__ORIGINS", "https://a, https://b", "server.origins", ["https://a", "https://b"]),
        ("ARQONBUS_SERVER__ORIGINS", "[https://a]", "server.origins", ["https://a"]),
        ("ARQONBUS_STORAGE_MODE", "degraded", "storage.mode", "degraded"),
        ("ARQONBUS_STORAGE_BACKEND", "memory", "storage.backend", "memory"),
        ("ARQONBUS_REQUIRE_DUAL_DATA_STACK", "yes", "storage.require_dual_data_stack", True),
        ("ARQONBUS_INFRA_PROTOCOL", "protobuf", "protocol.infra", "protobuf"),
        ("ARQONBUS_ALLOW_JSON_INFRA", "off", "protocol.allow_json_infra", False),
        ("ARQONBUS_TELEMETRY_HOST", "10.0.0.1", "telemetry.host", "10.0.0.1"),
        ("ARQONBUS_PREFLIGHT_STRICT", "1", "preflight.strict", True),
        ("ARQON_SCHEMA_STRICT", "true", "protocol.schema_strict", True),
        ("NATS_URL", "nats://n:4222", "datastores.nats.url", "nats://n:4222"),
        ("JWT_SECRET", "x" * 40, "auth.jwt.secret", "********"),
        ("ARQONBUS_LIMITS__SEND_QUEUE_BYTES", "64KiB", "limits.send_queue_bytes", 65536),
        ("ARQONBUS_ROOMS", "[{match: 'a.*', history: off}]", "rooms", None),
    ],
)
def test_the_operators_variables_set_what_they_say(
    deployment: Any, name: str, value: str, key: str, expected: object
) -> None:
    """The names that operators use, and the general form."""
    resolved = deployment.load(environ={name: value})
    assert resolved.location(key).source == name
    if expected is not None:
        assert resolved.explain(key).value == expected


def test_an_environment_that_is_none_is_a_clear_error(deployment: Any) -> None:
    """There are three environments, two of which have a long name."""
    found = deployment.findings(environ={"ARQONBUS_ENVIRONMENT": "production1"})
    assert any("is not a known environment; " in each for each in found)


def test_a_profile_that_says_it_is_another_environment_is_refused(deployment: Any) -> None:
    """A variable cannot turn prod into dev, where rules are soft."""
    deployment.write("prod/profile.yaml", "environment: prod\n")
    found = deployment.findings("prod", environ={"ARQONBUS_ENVIRONMENT": "dev"})
    assert found[0].startswith("ENVIRONMENT_MISMATCH ARQONBUS_ENVIRONMENT")


def test_validation_cannot_be_skipped_outside_dev(deployment: Any) -> None:
    """JWT_SKIP_VALIDATION is refused there whatever its value."""
    deployment.write("prod/profile.yaml", "environment: prod\n")
    for value in ("true", "false", "0"):
        found = deployment.findings("prod", environ={"JWT_SKIP_VALIDATION": value})
        assert found[0].startswith("VALIDATION_SKIPPED JWT_SKIP_VALIDATION")
    assert deployment.load(environ={"JWT_SKIP_VALIDATION": "true"}).settings.auth.jwt.skip_validation


def test_an_overlay_must_be_declared_and_there(deployment: Any) -> None:
    """A declared overlay that is missing is told; an undeclared one is not read."""
    (deployment.root / "profiles/dev/profile.local.yaml").write_text("server: {port: 1}\n")
    assert deployment.load().settings.server.port == 9100
    deployment.write("dev/profile.yaml", "environment: dev\nhost_overlay: local.yaml\n")
    assert deployment.findings() == [
        "FILE_UNREADABLE local.yaml: the file cannot be read (No such file or directory); "
        "correct its path or its permissions"
    ]


def test_a_profile_without_a_base_is_found(deployment: Any) -> None:
    """The one beside us is meant, not that of the package, whether or not there is a base.yaml."""
    deployment.write("dev/profile.yaml", "server: {port: 9107}\n")
    (deployment.root / "profiles/base.yaml").unlink(missing_ok=True)
    assert deployment.load().settings.server.port == 9107


def test_an_overlay_that_is_the_profile_itself_ends(deployment: Any) -> None:
    """It is told, not read in a circle."""
    deployment.write("dev/profile.yaml", "host_overlay: profiles/dev/profile.yaml\n")
    assert "host_overlay is set in an overlay" in deployment.findings()[0]


def test_an_unknown_profile_says_which_there_are(deployment: Any) -> None:
    """The names of the others are in the sentence."""
    assert deployment.findings("stagign") == [
        "PROFILE_MISSING there is no profile 'stagign' in profiles; there is dev"
    ]
    for name in ("../dev", "d\nev", ""):
        assert deployment.findings(name)[0].startswith("PROFILE_MISSING")


def test_a_profile_may_be_named_by_its_path(deployment: Any) -> None:
    """The base beside its directory goes below it."""
    file = deployment.root / "profiles/dev/profile.yaml"
    assert deployment.load(str(file)).settings.server.port == 9100
    assert deployment.load(str(file.parent)).settings.server.port == 9100


def test_a_named_directory_of_profiles_is_the_only_one(deployment: Any, tmp_path: Path) -> None:
    """Falling back would load the profile of another deployment."""
    empty = tmp_path / "elsewhere"
    empty.mkdir()
    assert "there is no profile 'dev' in elsewhere" in deployment.findings(profiles_dir=empty)[0]
    assert deployment.findings(environ={"ARQONBUS_PROFILES_DIR": str(empty)})


def test_a_section_that_is_none_is_told_although_a_higher_layer_fills_it(deployment: Any) -> None:
    """An emptied section neither vanishes nor takes the values below it away."""
    deployment.write("dev/profile.yaml", "environment: dev\nserver:\ntelemetry: 5\n")
    found = deployment.findings(environ={"ARQONBUS_SERVER_HOST": "10.0.0.1", "ARQONBUS_TELEMETRY_PORT": "1"})
    assert [each.partition(";")[0] for each in found] == [
        "BAD_VALUE profiles/dev/profile.yaml:2:1: server is a section and has nothing under it",
        "BAD_VALUE profiles/dev/profile.yaml:3:1: telemetry is a section",
    ]


@pytest.mark.parametrize("key", [leaf.key for leaf in tree.leaves().values()])
@pytest.mark.parametrize("wrong", ["{x: 1}", "[[1]]", "3.25", "''", "{from: 5}", "-1", "'\\u0007'"])
def test_a_wrong_type_anywhere_is_at_worst_a_finding_at_its_place(
    deployment: Any, key: str, wrong: str
) -> None:
    """No value in any setting makes loading fail in another way."""
    lines = [f"{'  ' * depth}{part}:" for depth, part in enumerate(key.split("."))]
    top = "" if key == "environment" else "environment: dev\n"
    deployment.write("dev/profile.yaml", top + "\n".join(lines) + f" {wrong}\n")
    try:
        places = {deployment.load().location(key).layer}
    except ConfigError as error:
        places = {each.location.layer for each in error.findings if each.location}
    assert places <= {"profile", "overlay"}
    assert places


def test_loading_gives_a_tree_that_cannot_be_changed(deployment: Any) -> None:
    """Settings are frozen to the leaves."""
    settings = deployment.load().settings
    with pytest.raises(ValueError, match="frozen"):
        settings.server.port = 1
    assert isinstance(settings.server.origins, tuple)


# As in a profile, a name decides whether a mapping or a value stands there.
VALUES = st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
INNER = st.fixed_dictionaries({}, optional={"x": VALUES, "y": VALUES})
TREES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "x": VALUES,
            "a": st.fixed_dictionaries({}, optional={"x": VALUES, "y": VALUES, "b": INNER}),
            "b": INNER,
        },
    ),
    max_size=5,
)


def naive(low: Any, high: Any) -> Any:
    if not (isinstance(low, dict) and isinstance(high, dict)):
        return high
    return {
        key: naive(low[key], high[key]) if key in low and key in high else value
        for key, value in {**low, **high}.items()
    }


def flattened(node: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    if not isinstance(node, dict):
        return [(path, node)]
    return [leaf for key, value in node.items() for leaf in flattened(value, (*path, key))]


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(TREES)
def test_merging_is_order_and_nothing_else(trees: list[dict[str, Any]]) -> None:
    """Mappings merge and the rest replaces; the layers are untouched; provenance names the winner."""
    layers = [Layer(str(index), str(index), copy.deepcopy(each)) for index, each in enumerate(trees)]
    merged = merge(layers)
    expected: Any = {}
    for each in trees:
        expected = naive(expected, each)
    assert merged == expected
    assert [layer.data for layer in layers] == trees
    provenance = Provenance(layers)
    for path, value in flattened(merged):
        assert provenance.given(path)[0].value == value
        assert provenance.location(path) == provenance.given(path)[0].location


@pytest.mark.parametrize("name", ["prod", "PROD", " Prod ", "production", "Production\n"])
def test_an_environment_is_known_by_any_spelling(deployment: Any, name: str) -> None:
    """Case, blanks and the long form make no other environment of it, in a profile and as its name."""
    deployment.write("prod/profile.yaml", f"environment: {name.strip()}\n")
    assert deployment.load(name).settings.environment == "prod"


@pytest.mark.parametrize(("name", "meant"), [("stage", "staging"), ("prd", "prod"), ("develop", "dev")])
def test_an_unknown_environment_is_refused_with_what_is_meant(deployment: Any, name: str, meant: str) -> None:
    """The nearest name that there is."""
    deployment.write("dev/profile.yaml", f"environment: {name}\n")
    assert any(f"did you mean {meant}?" in text for text in deployment.findings())
