"""`arqonbus token`: output and exit codes."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from arqonbus.cli import main

PROFILES = Path(__file__).parents[3] / "profiles"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory; the profiles are those of the repository."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ARQONBUS_PROFILES_DIR", str(PROFILES))
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["token", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def minted(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    code, out, _ = run(capsys, "mint", "--sub", "alice", "--tenant", "demo", *arguments)
    assert code == 0
    return out.strip()


def test_a_token_is_minted_and_verified_without_any_preparation(
    capsys: pytest.CaptureFixture[str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In dev the key makes itself; the token travels by argument, file or pipe."""
    token = minted(capsys)
    (here / "token").write_text(token + "\n")
    monkeypatch.setattr("sys.stdin", io.StringIO(token + "\n"))
    for arguments in ([token], ["--file", "token"], []):
        code, out, _ = run(capsys, "verify", *arguments)
        assert code == 0
        assert out.splitlines()[:3] == ["CLAIM        VALUE", "tenant       demo", "subject      alice"]
        assert "It may do everything in its tenant." in out
    assert (here / ".state/dev-jwt-secret").stat().st_mode & 0o777 == 0o600


def test_grants_are_shown_as_they_were_given(capsys: pytest.CaptureFixture[str]) -> None:
    """As a table, and in JSON."""
    token = minted(capsys, "--grant", "orders.*:subscribe,publish", "--grant", "a:*", "--kind", "service")
    out = run(capsys, "verify", token)[1]
    assert "orders.*  publish, subscribe" in out
    verdict = json.loads(run(capsys, "verify", token, "--json")[1])
    assert verdict["valid"] is True
    assert verdict["kind"] == "service"
    assert verdict["grants"][0] == {"room": "orders.*", "allow": ["publish", "subscribe"]}


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--ttl", "soon"], 2, "--ttl is not a duration"),
        (["--ttl", "0s"], 2, "--ttl is not between 1s and ten years"),
        (["--grant", "orders"], 2, "--grant is not a grant; write <room>:<action>"),
        (["--grant", "orders:fly"], 2, "--grant has an action that is none of"),
        (["--tenant", "a b"], 1, "no token was created: the tenant is not a name"),
        (["--key", "absent.pem"], 1, "the private key is to come from absent.pem, which cannot be read"),
        (["--profile", "qa"], 3, "there is no profile 'qa'"),
    ],
)
def test_a_token_that_cannot_be_made_is_a_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, sentence: str
) -> None:
    """On standard error, and nothing on standard output."""
    found = run(capsys, "mint", "--sub", "alice", "--tenant", "demo", *arguments)
    assert found[:2] == (code, "")
    assert sentence in found[2]


def test_an_invalid_token_ends_with_1_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    """Without repeating it."""
    token = minted(capsys)
    code, out, err = run(capsys, "verify", token[:-5] + "AAAAA")
    assert (code, out) == (1, "")
    assert err == (
        "arqonbus: the token is not accepted (UNAUTHENTICATED): "
        "The token's signature is not by a key that this bus trusts.\n"
    )
    code, out, _ = run(capsys, "verify", "x", "--json")
    assert (code, json.loads(out)["valid"]) == (1, False)


@pytest.mark.parametrize("arguments", [["--file", "absent"], ["x", "--file", "absent"]])
def test_a_token_that_cannot_be_read_is_a_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """So is one that was given twice."""
    code, _, err = run(capsys, "verify", *arguments)
    assert code in {1, 2}
    assert "token" in err


def test_prod_signs_with_its_own_secret_and_needs_no_other(
    capsys: pytest.CaptureFixture[str], here: Path
) -> None:
    """Passwords of data stores are not asked for; nothing is written."""
    (here / "jwt_secret").write_text("p" * 40)
    (here / "jwt_secret").chmod(0o600)
    options: list[Any] = ["--profile", "prod", "--secrets-dir", str(here)]
    token = minted(capsys, *options)
    out = run(capsys, "verify", token, *options)[1]
    assert "It has no grants" in out
    assert not (here / ".state").exists()
    (here / "jwt_secret").chmod(0o644)
    assert run(capsys, "verify", token, *options)[0] == 3


def test_a_token_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    """Which grant lets it do what; a no ends with 1, and a role that nobody has is named."""
    token = minted(capsys, "--grant", "orders.*:publish", "--grant", "a:*", "--grants-of", "unheard-of")
    code, out, _ = run(capsys, "explain", token, "--room", "orders.eu", "--action", "publish")
    assert (code, out.splitlines()[0]) == (0, "alice of demo may publish in orders.eu.")
    assert "orders.*  publish  the claim grants, entry 1" in out
    assert "The profile has no such roles: unheard-of." in out
    code, out, _ = run(capsys, "explain", token, "--room", "orders.eu", "--action", "manage")
    assert (code, out.splitlines()[0]) == (1, "alice of demo may not manage in orders.eu.")
    verdict = json.loads(run(capsys, "explain", token, "--json")[1])
    assert [each["room"] for each in verdict["reasons"]] == ["orders.*", "a"]
    assert verdict["unknown_roles"] == ["unheard-of"]
    for words in (["--action", "publish"], ["--room", "a/b"], ["--room", "a", "--action", "fly"]):
        assert run(capsys, "explain", token, *words)[0] == 2


def test_the_rule_of_a_room_explains_too(capsys: pytest.CaptureFixture[str]) -> None:
    """What everybody may do there, and what admins may do everywhere."""
    rooms = 'rooms=[{"match": "news", "grants": ["subscribe"]}]'
    token = minted(capsys, "--grant", "x:publish")
    out = run(capsys, "explain", token, "--room", "news", "--set", rooms)[1]
    assert "news  subscribe  rooms: news grants it to everybody" in out
    admin = minted(capsys, "--role", "admin")
    assert "the claim role: admin" in run(capsys, "explain", admin, "--room", "any")[1]
    assert "environment dev" in run(capsys, "explain", minted(capsys), "--room", "any")[1]
