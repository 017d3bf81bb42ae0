"""`arqonbus profile`: output and exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest

from arqonbus.cli import main

PROFILES = Path(__file__).parents[3] / "profiles"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a base and a profile."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdout.isatty", lambda: False, raising=False)
    (tmp_path / "profiles/dev").mkdir(parents=True)
    (tmp_path / "profiles/base.yaml").write_text("server:\n  port: 9100\n")
    (tmp_path / "profiles/dev/profile.yaml").write_text("environment: dev\nserver:\n  host: 10.0.0.1\n")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["profile", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def plain(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    code, out, _ = run(capsys, *arguments, "--json")
    assert code == 0
    return json.loads(out)


def test_show_prints_what_was_set_and_where(capsys: pytest.CaptureFixture[str]) -> None:
    """Defaults come with --all."""
    code, out, _ = run(capsys, "show")
    assert code == 0
    assert out.splitlines() == [
        "SETTING      VALUE     FROM",
        "environment  dev       profiles/dev/profile.yaml:1:1",
        "server.host  10.0.0.1  profiles/dev/profile.yaml:3:3",
        "server.port  9100      profiles/base.yaml:2:3",
    ]
    assert "storage.backend" in run(capsys, "show", "--all")[1]


def test_show_as_json_is_the_whole_tree(capsys: pytest.CaptureFixture[str]) -> None:
    """Both spellings of the option."""
    shown = plain(capsys, "show", "--set", "server.port=9200")
    assert shown["settings"]["server"]["port"] == 9200
    assert shown["profile"] == "dev"
    code, out, _ = run(capsys, "show", "--set", "server.port=9200", "--format", "json")
    assert (code, json.loads(out)) == (0, shown)


def test_explain_tells_the_winner_and_what_it_overrides(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the option down to the default."""
    monkeypatch.setenv("ARQONBUS_SERVER_PORT", "9300")
    code, out, _ = run(capsys, "explain", "server.port", "--set", "server.port=9200")
    assert code == 0
    assert out.splitlines() == [
        "server.port = 9200",
        "  set by --set server.port",
        "  over 9300 by ARQONBUS_SERVER_PORT",
        "  over 9100 by profiles/base.yaml:2:3",
        "  over 9100 by the defaults",
        "",
        "Port to listen on.",
        "A change takes effect: when a node restarts; restart the nodes one after another (rolling).",
    ]
    assert plain(capsys, "explain", "server.port")["overrides"][0]["location"] == "profiles/base.yaml:2:3"


def test_explain_refuses_what_is_no_setting(capsys: pytest.CaptureFixture[str]) -> None:
    """With the nearest one, or those of the section."""
    assert run(capsys, "explain", "server.prt")[::2] == (
        1,
        "arqonbus: server.prt is not a setting; did you mean server.port?\n",
    )
    assert "it is a section; give one of server.host, server.port" in run(capsys, "explain", "server")[2]


def test_digest_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The same as in JSON."""
    _, out, _ = run(capsys, "digest")
    assert out == f"{plain(capsys, 'digest')['digest']}\n"


def test_sources_lists_layers_and_variables(capsys: pytest.CaptureFixture[str]) -> None:
    """Lowest first."""
    layers = [each["layer"] for each in plain(capsys, "sources")]
    assert layers == ["defaults", "base", "profile", "secrets", "environment", "set"]
    assert plain(capsys, "sources", "--variables")["JWT_SECRET"] == "auth.jwt.secret"
    assert "ARQONBUS_SERVER_PORT" in run(capsys, "sources", "--variables")[1]


def test_schema_is_compared_with_a_file(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    """The one of the repository is up to date; another is not."""
    assert run(capsys, "schema", "--check", str(PROFILES / "profile.schema.json")) == (0, "", "")
    (here / "old.json").write_text("{}")
    code, _, err = run(capsys, "schema", "--check", "old.json")
    assert (code, err) == (
        1,
        "arqonbus: old.json is not up to date; write it with: arqonbus profile schema > old.json\n",
    )
    assert run(capsys, "schema", "--check", "absent.json")[0] == 1


def test_an_unreadable_profile_ends_with_3_and_every_finding(
    capsys: pytest.CaptureFixture[str], here: Path
) -> None:
    """On standard error for people, on standard output for scripts."""
    (here / "profiles/dev/profile.yaml").write_text("environment: dev\nserver:\n  prot: 1\n  port: x\n")
    code, out, err = run(capsys, "show")
    assert (code, out) == (3, "")
    assert err.splitlines() == [
        "arqonbus: 2 errors in the profile dev",
        "  profiles/dev/profile.yaml:3:3: server.prot is not a setting; did you mean server.port?",
        "  profiles/dev/profile.yaml:4:3: server.port is not a whole number; write digits only, such as 9100 "
        "(found 'x')",
    ]
    code, out, _ = run(capsys, "digest", "--json")
    assert code == 3
    assert [each["code"] for each in json.loads(out)["findings"]] == ["UNKNOWN_KEY", "BAD_VALUE"]


def test_prod_can_be_shown_where_its_secrets_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    """And shows none."""
    code, out, _ = run(capsys, "show", "--profile", "prod", "--profiles-dir", str(PROFILES))
    assert code == 0
    assert "********" in out
