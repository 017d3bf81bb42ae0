"""Hosts as network namespaces on a bridge of their own, that can be cut off as by a pulled cable.

Needs root and iproute2. Nothing of the machine's own network is changed but one interface, which is removed.
"""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Sequence
from types import TracebackType


def why_not() -> str:
    """Why no namespaces can be made here; empty if they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    name = f"arqtry{secrets.token_hex(3)}"
    try:
        _ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"network namespaces cannot be made here: {error}"
    _ip("netns", "del", name)
    return ""


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=20)


class Host:
    """One host: its address, and what comes before a command that shall run on it."""

    def __init__(self, namespace: str, address: str) -> None:
        self.namespace = namespace
        self.address = address

    @property
    def prefix(self) -> Sequence[str]:
        """Enters the host; the command keeps the process id."""
        return ("ip", "netns", "exec", self.namespace)

    def cut(self) -> None:
        """Drop every packet, in silence. Connections stay, as with a pulled cable."""
        for chain in ("INPUT", "OUTPUT"):
            self._iptables("-I", chain, "!", "-i" if chain == "INPUT" else "-o", "lo", "-j", "DROP")

    def heal(self) -> None:
        """Let packets through again."""
        self._iptables("-F")

    def _iptables(self, *arguments: str) -> None:
        command = [*self.prefix, "iptables", "-w", *arguments]
        subprocess.run(command, check=True, capture_output=True, timeout=20)


class Network:
    """Hosts that reach each other and this process. Use it in a with block."""

    def __init__(self) -> None:
        token = secrets.token_hex(3)
        self._token = token
        self._switch = f"arqs{token}"
        self._subnet = f"10.{100 + secrets.randbelow(100)}.{secrets.randbelow(250)}"
        self._hosts: list[Host] = []

    def __enter__(self) -> Network:
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "bridge", "up")
        uplink = f"arq{self._token}"
        _ip("link", "add", uplink, "type", "veth", "peer", "name", "uplink", "netns", self._switch)
        _ip("-n", self._switch, "link", "set", "uplink", "master", "bridge")
        _ip("-n", self._switch, "link", "set", "uplink", "up")
        _ip("addr", "add", f"{self._subnet}.1/24", "dev", uplink)
        _ip("link", "set", uplink, "up")
        return self

    def host(self) -> Host:
        """A new host."""
        number = len(self._hosts) + 2
        host = Host(f"arqh{self._token}-{number}", f"{self._subnet}.{number}")
        port = f"port{number}"
        _ip("netns", "add", host.namespace)
        self._hosts.append(host)
        _ip(
            "-n",
            host.namespace,
            "link",
            "add",
            "eth",
            "type",
            "veth",
            "peer",
            "name",
            port,
            "netns",
            self._switch,
        )
        _ip("-n", self._switch, "link", "set", port, "master", "bridge")
        _ip("-n", self._switch, "link", "set", port, "up")
        _ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", "eth")
        _ip("-n", host.namespace, "link", "set", "lo", "up")
        _ip("-n", host.namespace, "link", "set", "eth", "up")
        return host

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for host in self._hosts:
            _ip("netns", "del", host.namespace)
        _ip("netns", "del", self._switch)  # and with it both ends of the uplink


__all__ = ["Host", "Network", "why_not"]
