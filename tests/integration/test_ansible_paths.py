"""The module of the playbooks that writes files, run as a host runs it: parameters in, JSON out."""

from __future__ import annotations

import grp
import json
import os
import pwd
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
MODULE = REPOSITORY / "ansible" / "plugins" / "modules" / "paths.py"
OURS = {"owner": pwd.getpwuid(os.getuid()).pw_name, "group": grp.getgrgid(os.getgid()).gr_name}


def ran(directory: Path, *present: dict[str, str], check: bool = False, **others: object) -> Any:
    """What the module says. Files that name no owner are this user's."""
    arguments = {
        "directory": str(directory),
        "mode": "0640",
        "present": [OURS | entry for entry in present],
        "_ansible_check_mode": check,
        "_ansible_diff": True,
        **others,
    }
    # As Ansible sends it: the parameters stand in the module.
    module = MODULE.read_text().replace("<<INCLUDE_ANSIBLE_MODULE_JSON_ARGS>>", json.dumps(arguments))
    done = subprocess.run([sys.executable, "-"], input=module, capture_output=True, text=True, timeout=60)
    said = json.loads(done.stdout)
    assert (done.returncode != 0) is said.get("failed", False)
    return said


def mode(path: Path) -> int:
    """The permissions of a path."""
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_declared_is_made_and_a_second_run_changes_nothing(tmp_path: Path) -> None:
    """Files, directories, and the way to them, in one run."""
    declared = (
        {"path": "kept", "mode": "0700"},
        {"path": "deep/er/a.conf", "content": "a = 1\n"},
        {"path": "b", "content": "", "mode": "0600"},
    )
    said = ran(tmp_path, *declared)
    assert said["paths"] == [str(tmp_path / name) for name in ("kept", "deep/er/a.conf", "b")]
    assert (tmp_path / "deep/er/a.conf").read_text() == "a = 1\n"
    assert {name: mode(tmp_path / name) for name in ("kept", "deep", "deep/er/a.conf", "b")} == {
        "kept": 0o700,
        "deep": 0o755,
        "deep/er/a.conf": 0o640,
        "b": 0o600,
    }
    again = ran(tmp_path, *declared)
    assert (again["changed"], again["paths"], again["diff"]) == (False, [], [])


def test_check_mode_shows_the_difference_and_changes_nothing(tmp_path: Path) -> None:
    """Of what a file says, of its mode, and of what is to go."""
    file, old = tmp_path / "a.conf", tmp_path / "old"
    file.write_text("a = 1\n")
    file.chmod(0o644)
    old.mkdir()
    said = ran(tmp_path, {"path": "a.conf", "content": "a = 2\n"}, check=True, absent=["old"])
    assert said["paths"] == [str(file), str(old)]
    assert (said["diff"][0]["before"], said["diff"][0]["after"]) == ({"mode": "0644"}, {"mode": "0640"})
    assert (said["diff"][1]["before"], said["diff"][1]["after"]) == ("a = 1\n", "a = 2\n")
    assert (file.read_text(), mode(file), old.is_dir()) == ("a = 1\n", 0o644, True)


def test_a_difference_is_shown_only_where_it_may_be(tmp_path: Path) -> None:
    """A task that writes secrets says so; the result holds nothing then but what was changed."""
    said = ran(tmp_path, {"path": "key", "content": "c4nary\n"}, _ansible_diff=False, _ansible_no_log=True)
    assert said["paths"] == [str(tmp_path / "key")]
    assert "c4nary" not in json.dumps(said)


def test_a_file_that_is_refused_leaves_the_one_before(tmp_path: Path) -> None:
    """And nothing beside it; the sentence names the file, not the draft."""
    file = tmp_path / "a.conf"
    file.write_text("good\n")
    said = ran(tmp_path, {"path": "a.conf", "content": "bad\n", "validate": "grep --quiet good %s"})
    assert said["msg"].startswith(f"{file} was left as it is: grep --quiet good {file} says")
    assert file.read_text() == "good\n"
    assert list(tmp_path.iterdir()) == [file]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    """Whoever put it there does not get a file of ours elsewhere."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("theirs\n")
    (tmp_path / "a").symlink_to(elsewhere)
    assert ran(tmp_path, {"path": "a", "content": "ours\n"})["changed"]
    assert not (tmp_path / "a").is_symlink()
    assert elsewhere.read_text() == "theirs\n"


def test_what_has_to_go_is_gone_and_what_a_link_names_stays(tmp_path: Path) -> None:
    """Whole directories, files, links; what is not there is no change."""
    (tmp_path / "d/e").mkdir(parents=True)
    (tmp_path / "d/e/f").write_text("")
    (tmp_path / "named").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "named")
    assert ran(tmp_path, absent=["d", "link", "never"])["paths"] == [str(tmp_path / n) for n in ("d", "link")]
    assert [path.name for path in tmp_path.iterdir()] == ["named"]


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"path": "d", "content": "x"}, "has to be a file and is a directory; move it away"),
        ({"path": "f"}, "has to be a directory and is a file; move it away"),
        ({"path": "f/below", "content": "x"}, "Not a directory"),
        ({"content": "x"}, "an entry of present has no path"),
        ({"path": "f", "contents": "x"}, "an entry of present has no option contents"),
        ({"path": "new", "content": "x", "group": "no-such-group"}, "no-such-group"),
    ],
)
def test_what_cannot_be_made_is_a_sentence(tmp_path: Path, entry: dict[str, str], sentence: str) -> None:
    """And the file that was there stays as it was."""
    (tmp_path / "d").mkdir()
    (tmp_path / "f").write_text("before")
    said = ran(tmp_path, entry)
    assert said["failed"]
    assert sentence in said["msg"]
    assert (tmp_path / "f").read_text() == "before"
    assert not (tmp_path / "new").exists()
