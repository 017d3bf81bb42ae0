"""The modules of the playbooks that look at a host and run scripts on it, run as a host runs them."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.servers.arqonbus import REPOSITORY
from tests.servers.certificates import Authority

MODULES = REPOSITORY / "ansible" / "plugins" / "modules"


def ran(module: str, **parameters: object) -> Any:
    """What a module returns. Ansible puts the parameters into the module before it sends it."""
    text = (MODULES / f"{module}.py").read_text()
    sent = text.replace("<<INCLUDE_ANSIBLE_MODULE_JSON_ARGS>>", json.dumps(parameters))
    done = subprocess.run([sys.executable, "-"], input=sent, capture_output=True, text=True, timeout=60)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def test_a_script_that_asks_runs_in_check_mode_too() -> None:
    """It changes nothing, and says so; quotes and backslashes arrive as they were written."""
    script = """printf '%s|' "a 'b'" 'c"d' '\\n'; printf 'é\\n'; echo three >&2; echo '\"\"\"'"""
    said = ran("host_script", script=script, asks=True, _ansible_check_mode=True)
    assert (said["changed"], said["rc"], said["stderr"]) == (False, 0, "three")
    assert said["stdout"] == """a 'b'|c"d|\\n|é\n\"\"\""""


def test_a_script_that_changes_something_is_not_run_in_check_mode(tmp_path: Path) -> None:
    """And counts as a change in both modes."""
    script = "touch made"
    assert ran("host_script", script=script, chdir=str(tmp_path), _ansible_check_mode=True)["changed"]
    assert not (tmp_path / "made").exists()
    assert ran("host_script", script=script, chdir=str(tmp_path))["changed"]
    assert (tmp_path / "made").exists()


def test_a_script_that_fails_fails_the_task() -> None:
    """With its code, and what it printed before."""
    said = ran("host_script", script="echo before; exit 3", asks=True)
    assert (said["failed"], said["rc"], said["stdout"]) == (True, 3, "before")


def test_the_state_of_this_host() -> None:
    """As other programs tell it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        said = ran("host_state", files=["/etc/hostname", "/no/such/file"], globs=["/etc/host*", "/no/such/*"])
        assert server.getsockname()[1] in said["ports"]
    assert said["changed"] is False
    assert said["system"]["architecture"] == os.uname().machine
    assert said["room"]["/"] > 0
    assert said["users"]["root"].startswith("root /root ")
    assert said["files"] == {"/etc/hostname": Path("/etc/hostname").read_text().strip()}
    assert set(said["owned"]) == {"/etc/hostname"}
    assert "/etc/hosts" in said["paths"]
    assert "/no/such/file" not in said["files"]


@pytest.mark.skipif(not Path("/usr/bin/dpkg-query").exists(), reason="packages are those of Debian")
def test_the_packages_of_this_host() -> None:
    """All that are installed, with their versions, and no others."""
    shown = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${db:Status-Status}\t${Package}\t${Version}\n"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout
    rows = [line.split("\t") for line in shown.splitlines()]
    assert ran("host_state")["packages"] == {
        name: version for status, name, version in rows if status == "installed"
    }


def test_a_secret_is_told_by_its_digest_only(tmp_path: Path) -> None:
    """Without the blanks around it, as the stores read it."""
    (tmp_path / "secret").write_text("abc\n")
    said = ran("host_state", digests=[str(tmp_path / "secret"), str(tmp_path / "none")])
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert said["digests"] == {str(tmp_path / "secret"): digest}


def test_a_certificate_that_fits_and_one_that_does_not(tmp_path: Path) -> None:
    """Key, certificate and authority belong together, or not; nothing there is no error."""
    authority = Authority(tmp_path / "authority")
    ours, theirs, none = tmp_path / "ours", tmp_path / "theirs", tmp_path / "none"
    for directory in (ours, theirs):
        directory.mkdir()
        certificate, key = authority.server(directory.name)
        shutil.copy(certificate, directory / "server.pem")
        shutil.copy(key, directory / "server.key")
        shutil.copy(authority.file, directory / "ca.pem")
    (theirs / "server.key").write_bytes((ours / "server.key").read_bytes())
    found = ran("host_state", certificates=[str(each) for each in (ours, theirs, none)])["certificates"]
    assert [found[str(each)]["fits"] for each in (ours, theirs, none)] == [True, False, False]
    assert found[str(ours)]["authority"] == (ours / "ca.pem").read_text().strip()
    assert found[str(none)] == {"fits": False, "leaf": "", "chain": "", "authority": "", "owned": [""] * 4}
