"""Secrets: allowed sources, and no leak into output."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from arqonbus.config import ConfigError, Redactor, with_dev_key
from arqonbus.config.field import MASK
from arqonbus.config.url import holds_secret

SECRET = "canary-" + "k" * 40


def refer(deployment: Any, reference: str) -> None:
    deployment.write("dev/profile.yaml", f"environment: dev\nauth:\n  jwt:\n    secret: {reference}\n")


def secret_of(resolved: Any) -> str:
    return str(resolved.settings.auth.jwt.secret.get_secret_value())


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_reference_to_a_file_gives_its_text_without_one_newline(deployment: Any, ending: str) -> None:
    """What an editor adds at the end of a file is not part of a secret."""
    refer(deployment, f"{{from: file, path: {deployment.secret('any-name', SECRET + ending)}}}")
    assert secret_of(deployment.load()) == SECRET


def test_a_credential_is_a_file_in_the_secrets_directory(deployment: Any) -> None:
    """systemd's directory is used when none is named."""
    refer(deployment, "{from: credential, name: jwt}")
    deployment.secret("jwt", SECRET)
    assert secret_of(deployment.load()) == SECRET
    environ = {"CREDENTIALS_DIRECTORY": str(deployment.secrets)}
    assert secret_of(deployment.load(secrets_dir=None, environ=environ)) == SECRET


def test_a_secret_may_come_from_a_variable_or_a_command(deployment: Any) -> None:
    """No shell reads the command."""
    refer(deployment, "{from: env, name: VAULT_JWT}")
    assert secret_of(deployment.load(environ={"VAULT_JWT": SECRET})) == SECRET
    refer(deployment, f"{{from: command, argv: [printf, '%s', '{SECRET}; $(id)']}}")
    assert secret_of(deployment.load()) == f"{SECRET}; $(id)"


@pytest.mark.parametrize("name", ["auth.jwt.secret", "auth__jwt__secret", "jwt_secret", "JWT_SECRET"])
def test_a_file_that_is_named_for_a_setting_sets_it(deployment: Any, name: str) -> None:
    """Its place is the file."""
    file = deployment.secret(name, SECRET)
    resolved = deployment.load()
    assert secret_of(resolved) == SECRET
    assert str(resolved.location("auth.jwt.secret")) == str(file)


def test_other_files_of_the_secrets_directory_are_left_alone(deployment: Any) -> None:
    """Except one that is named almost like a setting."""
    deployment.secret("some-other-service", "", mode=0o777)
    assert deployment.load()
    deployment.secret("auth.jwt.secrt", SECRET)
    assert "did you mean auth.jwt.secret?" in deployment.findings()[0]


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("{from: file, path: %s/absent}", "which cannot be read (No such file or directory)"),
        ("{from: file, path: %s/link}", "a symbolic link; name the file itself"),
        ("{from: file, path: %s}", "which is not a regular file"),
        ("{from: file, path: %s/pipe}", "which is not a regular file"),
        (
            "{from: file, path: %s/open}",
            "which has mode 0644; only its owner and group may read it: chmod 0640",
        ),
        ("{from: file, path: %s/empty}", "which is empty"),
        ("{from: file, path: %s/blank}", "which is empty"),
        ("{from: file, path: %s/binary}", "which is not UTF-8 text"),
        ("{from: file, path: %s/huge}", "which holds more than 64 KiB"),
        ("{from: file}", "has missing or extra keys; from: file needs path"),
        ("{from: file, path: a, name: b}", "has missing or extra keys"),
        ("{from: file, path: 5}", "has a path of the wrong type; write text"),
        ("{from: vault, path: a}", "has no known source"),
        ("{path: a}", "has no known source"),
        ("{from: [file], path: a}", "has no known source"),
        ("{from: credential, name: ../open}", "has a name with a path in it"),
        ("{from: credential, name: nothere}", "which is not in"),
        ("{from: env, name: UNSET}", "from the variable UNSET, which is not set"),
        ("{from: env, name: EMPTY}", "from the variable EMPTY, which is empty"),
        ("{from: command, argv: [no-such-command-here]}", "which cannot run (No such file or directory)"),
        ("{from: command, argv: ['false']}", "which ended with code 1"),
        ("{from: command, argv: ['true']}", "whose output is empty"),
        ("{from: credential, name: circle}", "which holds another reference; a reference is followed once"),
        ("{from: env, name: CIRCLE}", "which holds another reference"),
        ("'{from: env, name: CIRCLE}'", "is the text of a reference instead of the secret"),
        ("{from: command, argv: 'echo x'}", "has a argv of the wrong type; write a list of words"),
    ],
)
def test_a_secret_that_cannot_be_read_gets_a_sentence(deployment: Any, reference: str, sentence: str) -> None:
    """The sentence names the setting, the place in the profile and the cause, and no secret."""
    place = deployment.secrets
    deployment.secret("target", SECRET)
    (place / "link").symlink_to(place / "target")
    os.mkfifo(place / "pipe", 0o600)
    deployment.secret("open", SECRET, mode=0o644)
    deployment.secret("empty", "")
    deployment.secret("circle", "{from: credential, name: circle}\n")
    deployment.secret("blank", " \n")
    deployment.secret("huge", SECRET * 2000)
    (place / "binary").write_bytes(b"\xff\xfe")
    (place / "binary").chmod(0o600)
    refer(deployment, reference.replace("%s", str(place)))
    found = deployment.findings(environ={"EMPTY": "", "CIRCLE": ' {"from": "env", "name": "CIRCLE"}'})
    assert len(found) == 1
    assert "profiles/dev/profile.yaml:4:5: auth.jwt.secret " in found[0]
    assert sentence in found[0]
    assert "canary" not in found[0]


def test_a_command_that_does_not_end_is_ended(deployment: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hanging vault does not hang a start."""
    monkeypatch.setattr("arqonbus.config.secrets.COMMAND_SECONDS", 0.05)
    refer(deployment, "{from: command, argv: [tail, -f, /dev/null]}")
    assert "which did not end within 0.05 s" in deployment.findings()[0]


def test_a_reference_in_a_layer_of_plain_texts_is_refused(deployment: Any) -> None:
    """A variable, an option and the file that is named for a setting hold secrets, not references."""
    text = "{from: env, name: JWT_SECRET}"
    for given in ({"environ": {"JWT_SECRET": text}}, {"overrides": [f"auth.jwt.secret={text}"]}):
        assert "is the text of a reference" in deployment.findings(**given)[0]
    deployment.secret("jwt_secret", text)
    assert "is the text of a reference" in deployment.findings()[0]


def test_a_secrets_directory_that_is_a_file_gets_a_sentence(deployment: Any) -> None:
    """So does one that is not there."""
    for path in (deployment.secret("file"), deployment.root / "absent"):
        assert "cannot be read" in deployment.findings(secrets_dir=path)[0]


def test_literal_secrets_are_refused_outside_dev(deployment: Any) -> None:
    """In files and on command lines, in every layer; a password in a URL is a secret too."""
    deployment.write("base.yaml", f"datastores:\n  postgres:\n    password: {SECRET}\n")
    deployment.write(
        "prod/profile.yaml",
        "environment: prod\ndatastores:\n  postgres:\n    password: {from: credential, name: pg}\n"
        f"  valkey:\n    url: redis://u:{SECRET}@v:6379\n  nats:\n    url: nats://n:4222\n",
    )
    deployment.secret("pg")
    found = deployment.findings("prod", overrides=[f"auth.jwt.secret={SECRET}"])
    assert [each.split(": ")[0] for each in found] == [
        "LITERAL_SECRET --set auth.jwt.secret",
        "LITERAL_SECRET profiles/base.yaml:3:5",
        "LITERAL_SECRET profiles/prod/profile.yaml:6:5",
    ]
    assert SECRET not in str(found)
    assert deployment.load(overrides=[f"auth.jwt.secret={SECRET}"])


def test_a_reference_replaces_a_reference_as_a_whole(deployment: Any) -> None:
    """The keys of the lower one do not shine through."""
    deployment.write("base.yaml", "auth:\n  jwt:\n    secret: {from: file, path: /nowhere}\n")
    refer(deployment, "{from: credential, name: jwt}")
    deployment.secret("jwt", SECRET)
    assert secret_of(deployment.load()) == SECRET


def test_a_profile_can_be_looked_at_where_its_secrets_are_not(deployment: Any) -> None:
    """The digest is the same with and without them."""
    refer(deployment, "{from: credential, name: jwt}")
    unread = deployment.load(secrets_of=())
    deployment.secret("jwt", SECRET)
    assert unread.digest == deployment.load().digest
    assert unread.explain("auth.jwt.secret").value == MASK
    assert unread.explain("auth.jwt.secret").overridden[0].value is None


def test_what_is_not_followed_is_not_opened(deployment: Any) -> None:
    """Where secrets are of no interest, a file of the secrets directory that is unfit is none either."""
    deployment.secret("auth.jwt.secret", SECRET, mode=0o644)
    assert deployment.findings()
    unread = deployment.load(secrets_of=())
    assert unread.explain("auth.jwt.secret").value == MASK
    assert str(unread.location("auth.jwt.secret")).endswith("auth.jwt.secret")


def test_the_digest_follows_settings_and_not_secrets(deployment: Any) -> None:
    """A rotated secret leaves it alone; a changed port does not."""
    first = deployment.load(environ={"JWT_SECRET": SECRET}).digest
    assert first == deployment.load(environ={"JWT_SECRET": SECRET + "2"}).digest
    assert first != deployment.load(environ={"JWT_SECRET": SECRET, "ARQONBUS_SERVER_PORT": "1"}).digest
    assert len(first) == 64


def test_no_output_of_a_loaded_profile_holds_a_secret(deployment: Any) -> None:
    """Canaries in every secret setting do not come out of show, explain, repr or a traceback."""
    environ = {
        "JWT_SECRET": SECRET,
        "ARQONBUS_POSTGRES_URL": f"postgresql://u:{SECRET}@h/db",
        "ARQONBUS_VALKEY_URL": f"redis://:{SECRET}@h",
        "NATS_URL": f"nats://u:{SECRET}@h",
        "ARQONBUS_DATASTORES__VALKEY__PASSWORD": SECRET,
        "ARQONBUS_DATASTORES__POSTGRES__PASSWORD": SECRET,
        "ARQONBUS_DATASTORES__VALKEY__SENTINEL__PASSWORD": SECRET,
        "ARQONBUS_AUTH__JWT__PREVIOUS_SECRET__VALUE": SECRET,
        "ARQONBUS_AUTH__JWT__PREVIOUS_SECRET__VALID_UNTIL": "2030-01-31T00:00:00Z",
    }
    resolved = deployment.load(environ=environ)
    shown = json.dumps(resolved.redacted())
    assert "canary" not in shown
    assert shown.count(MASK) == 8
    for key in ("auth.jwt.secret", "datastores.postgres.url", "datastores.valkey.password"):
        assert "canary" not in str(resolved.explain(key))
    redact = Redactor(resolved.settings).text
    assert (
        redact(f"refused for {SECRET} at redis://u:{SECRET}@h") == f"refused for {MASK} at redis://u:{MASK}@h"
    )
    bad = {**environ, "ARQONBUS_DATASTORES__POSTGRES__POOL__MIN": "x", "NATS_URL": f"http://u:{SECRET}@h"}
    with pytest.raises(ConfigError) as caught:
        deployment.load(environ=bad)
    assert "canary" not in str(caught.value) + repr(caught.value.findings)
    assert "(found text of 58 characters)" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("amqp://u:pw@h and postgres://a:b@c", f"amqp://u:{MASK}@h and postgres://a:{MASK}@c"),
        ("Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln", f"Bearer {MASK}"),
        ("-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----.", f"{MASK}."),
        ("-----BEGIN EC PRIVATE KEY-----\ncut off", MASK),
        ("https://example.org/a:b@c is no secret", "https://example.org/a:b@c is no secret"),
    ],
)
def test_the_redactor_knows_secrets_by_their_look(deployment: Any, text: str, expected: str) -> None:
    """Tokens, private keys and passwords in URLs are masked although no profile knows them."""
    assert Redactor(deployment.load().settings).text(text) == expected


def test_dev_gets_a_key_of_its_own_once(deployment: Any, tmp_path: Path) -> None:
    """It is made on the first run, private, and the same on the next."""
    settings = deployment.load(overrides=[f"state_dir={tmp_path / 'a/state'}"]).settings
    first, second = with_dev_key(settings).auth.jwt.secret, with_dev_key(settings).auth.jwt.secret
    assert first
    assert second
    assert first.get_secret_value() == second.get_secret_value()
    assert len(first.get_secret_value()) >= 48
    files = list(settings.state_dir.iterdir())
    assert [file.stat().st_mode & 0o777 for file in files] == [0o600]
    assert settings.state_dir.stat().st_mode & 0o777 == 0o700


def test_only_dev_gets_a_key_and_only_when_it_has_none(deployment: Any) -> None:
    """Elsewhere nothing is written."""
    deployment.write("prod/profile.yaml", "environment: prod\n")
    for resolved in (deployment.load("prod"), deployment.load(environ={"JWT_SECRET": SECRET})):
        assert with_dev_key(resolved.settings) is resolved.settings


def test_a_dev_key_that_others_can_read_is_refused(deployment: Any, tmp_path: Path) -> None:
    """The sentence says what to do."""
    settings = deployment.load(overrides=[f"state_dir={tmp_path / 'state'}"]).settings
    with_dev_key(settings)
    (settings.state_dir / "dev-jwt-secret").chmod(0o644)
    with pytest.raises(ValueError, match=r"which has mode 0644.*remove the file and a new one is made"):
        with_dev_key(settings)


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("postgresql://bus@db:5432/bus", False),
        ("postgresql://bus:pw@db:5432/bus", True),
        ("postgresql://bus@db/bus?password=pw", True),
        ("postgresql://bus@db/bus?sslpassword=pw", True),
        ("postgresql://bus@db/bus?application_name=x", False),
        ("nats://token@nats:4222", True),
        ("nats://nats:4222", False),
        ("valkey://[::1", False),
        ("valkey://:pw/@[::1", True),
        ("nats://token/@nats", True),
    ],
)
def test_a_secret_in_a_url_is_noticed(url: str, secret: bool) -> None:
    """A password, one in the query, and the token of NATS count; also in a URL that cannot be parsed."""
    assert holds_secret(url) is secret
