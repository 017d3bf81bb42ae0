"""What holds for every container of docker-compose.yml, as the engine and the kernel say it."""

from __future__ import annotations

from docker.models.containers import Container


def is_hardened(container: Container) -> None:
    """The file system, the capabilities, the user, the limits, the log."""
    attributes = container.attrs
    host, config = attributes["HostConfig"], attributes["Config"]
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert host["Privileged"] is False
    assert host["Init"] is True
    assert int(config["User"].partition(":")[0]) >= 10_000
    assert 0 < host["PidsLimit"] <= 256
    assert 0 < host["Memory"] <= 2**31
    assert [limit["Name"] for limit in host["Ulimits"]] == ["nofile"]
    assert host["LogConfig"]["Config"] == {"max-file": "3", "max-size": "10m"}
    assert host["NetworkMode"] != "host"


def holds_no_privilege(container: Container) -> None:
    """No capability, no way to gain one, nothing to write to."""
    code, output = container.exec_run(
        ["sh", "-c", "cat /proc/1/status; touch /etc/x 2>&1; touch /usr/local/bin/x 2>&1; true"]
    )
    assert code == 0
    said = output.decode()
    facts = dict(line.split(":", 1) for line in said.splitlines() if ":\t" in line)
    assert {int(facts[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")} == {0}
    assert facts["NoNewPrivs"].strip() == "1"
    assert "0" not in facts["Uid"].split()
    assert said.count("Read-only file system") == 2


__all__ = ["holds_no_privilege", "is_hardened"]
