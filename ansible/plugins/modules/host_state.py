#!/usr/bin/python
"""The state of a host that the roles decide by, read in one run."""

import glob
import grp
import hashlib
import json
import os
import platform
import pwd
import stat
import subprocess
from pathlib import Path

DOCUMENTATION = r"""
module: host_state
short_description: Read what the roles decide by, in one run
description:
  - Returns what the roles here need of M(ansible.builtin.setup), M(ansible.builtin.package_facts),
    M(ansible.builtin.service_facts) and M(ansible.builtin.stat), for a fraction of their processor time.
    Tasks that would find nothing to do are skipped by it.
  - Changes nothing, and runs in check mode, too.
options:
  certificates:
    description: Directories that hold server.key, server.pem and ca.pem.
    type: list
    elements: str
    default: []
  files:
    description: Small files whose text is wanted; none of them is a secret.
    type: list
    elements: str
    default: []
  digests:
    description: Files whose SHA-256 is wanted, of their text without blanks around it.
    type: list
    elements: str
    default: []
  globs:
    description: Patterns of paths; those that exist are returned.
    type: list
    elements: str
    default: []
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Look at the host
  host_state:
    certificates: [/etc/service/tls]
  register: host_state

- name: Install the service
  ansible.builtin.apt:
    name: service
  when: "'service' not in host_state.packages"
"""

RETURN = r"""
system:
  description: The keys distribution, release, architecture, init, and container (a bool).
  type: dict
  returned: always
room: {description: MiB free by directory., type: dict, returned: always}
packages: {description: Versions of the installed packages by name., type: dict, returned: always}
users: {description: "Group, home and shell of the host's users by name.", type: dict, returned: always}
active: {description: Units that run., type: list, returned: always}
enabled: {description: Units that a boot starts., type: list, returned: always}
masked: {description: Units that cannot be started., type: list, returned: always}
outdated: {description: Units whose files changed since systemd read them., type: list, returned: always}
ports: {description: TCP ports that something listens on., type: list, returned: always}
paths: {description: Paths that match a pattern., type: list, returned: always}
files: {description: Texts of the files that exist by path., type: dict, returned: always}
owned: {description: "Mode, owner and group of those files by path.", type: dict, returned: always}
digests: {description: SHA-256 of the files that exist by path., type: dict, returned: always}
certificates:
  description: >-
    By directory: whether key, certificate and authority fit together, the certificate, its chain, the
    authority, and mode, owner and group of the directory, the key, the certificate and the authority.
  type: dict
  returned: always
"""

PARAMETERS = r"""<<INCLUDE_ANSIBLE_MODULE_JSON_ARGS>>"""

UNITS = Path("/etc/systemd/system")
LISTENING = "0A"
END = "-----END CERTIFICATE-----"


def said(*command: str) -> str:
    """What a command prints; nothing where it fails or is not there."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout if done.returncode == 0 else ""


def system() -> dict:
    """Which system this is."""
    release = {}
    for line in Path("/etc/os-release").read_text().splitlines():
        name, _, value = line.partition("=")
        release[name] = value.strip("\"'")
    return {
        "distribution": release.get("NAME", "").partition(" ")[0],
        "release": release.get("VERSION_ID", ""),
        "architecture": platform.machine(),
        "init": Path("/proc/1/comm").read_text().strip(),
        "container": bool(said("systemd-detect-virt", "--container")),
    }


def room(directories: list) -> dict:
    """MiB that are free for root where directories are."""
    free = {}
    for directory in directories:
        if Path(directory).is_dir():
            found = os.statvfs(directory)
            free[directory] = found.f_bavail * found.f_frsize // 2**20
    return free


def packages() -> dict:
    """What is installed."""
    form = "${db:Status-Status} ${Package} ${Version}\n"
    lines = said("dpkg-query", "--show", f"--showformat={form}").splitlines()
    found = (line.split(" ") for line in lines)
    return {name: version for status, name, version in found if status == "installed"}


def users() -> dict:
    """Group, home and shell of the host's own users."""
    groups = {}
    for line in Path("/etc/group").read_text().splitlines():
        name, _, number = line.split(":")[:3]
        groups[number] = name
    found = {}
    for line in Path("/etc/passwd").read_text().splitlines():
        name, _, _, group, _, home, shell = line.split(":")
        found[name] = f"{groups.get(group, group)} {home} {shell}"
    return found


def units() -> dict:
    """What runs, what a boot starts, and what systemd has to read again."""
    active, outdated = [], []
    for block in said("systemctl", "show", "--property=Id,ActiveState,NeedDaemonReload", "*").split("\n\n"):
        unit = dict(line.partition("=")[::2] for line in block.splitlines())
        if unit.get("ActiveState") in ("active", "reloading"):
            active.append(unit["Id"])
        if unit.get("NeedDaemonReload") == "yes":
            outdated.append(unit["Id"])
    wanted = {path.name for kind in ("wants", "requires") for path in UNITS.glob(f"*.{kind}/*")}
    masked = [
        path.name for path in UNITS.glob("*") if path.is_symlink() and str(path.readlink()) == os.devnull
    ]
    return {"active": active, "outdated": outdated, "enabled": sorted(wanted), "masked": sorted(masked)}


def ports() -> list:
    """TCP ports that something listens on, at any address."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if Path(table).exists():
            rows = [line.split() for line in Path(table).read_text().splitlines()[1:]]
            found |= {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == LISTENING}
    return sorted(found)


def text_of(path: Path) -> str:
    """The text of a file without blanks around it; nothing where it cannot be read."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def digest(path: Path) -> str:
    """SHA-256 of a file without blanks around it."""
    return hashlib.sha256(path.read_bytes().strip()).hexdigest()


def owned(path: Path) -> str:
    """Mode, owner and group of a path, as `stat` prints them."""
    try:
        found = path.stat()
        owner, group = pwd.getpwuid(found.st_uid).pw_name, grp.getgrgid(found.st_gid).gr_name
    except (OSError, KeyError):
        return ""
    return f"{stat.S_IMODE(found.st_mode):o} {owner}:{group}"


def certificate(directory: Path) -> dict:
    """A key, its certificate with its chain, and the authority."""
    key, chain, authority = (directory / name for name in ("server.key", "server.pem", "ca.pem"))
    public = said("openssl", "pkey", "-in", str(key), "-pubout")
    fits = bool(public) and public == said("openssl", "x509", "-in", str(chain), "-noout", "-pubkey")
    leaf, end, rest = text_of(chain).partition(END)
    return {
        "fits": fits and bool(said("openssl", "verify", "-CAfile", str(authority), str(chain))),
        "leaf": leaf + end,
        "chain": rest.strip(),
        "authority": text_of(authority),
        "owned": [owned(path) for path in (directory, key, chain, authority)],
    }


def state(parameters: dict) -> dict:
    """All of it."""
    files = [Path(path) for path in parameters.get("files", [])]
    digests = [Path(path) for path in parameters.get("digests", [])]
    return {
        "changed": False,
        "system": system(),
        "room": room(["/", "/var/lib", "/opt"]),
        "packages": packages(),
        "users": users(),
        "ports": ports(),
        "paths": sorted(path for pattern in parameters.get("globs", []) for path in glob.glob(pattern)),  # noqa: PTH207
        "files": {str(path): path.read_text().strip() for path in files if path.is_file()},
        "owned": {str(path): owned(path) for path in files if path.is_file()},
        "digests": {str(path): digest(path) for path in digests if path.is_file()},
        "certificates": {each: certificate(Path(each)) for each in parameters.get("certificates", [])},
        **units(),
    }


if __name__ == "__main__":
    print(json.dumps(state(json.loads(PARAMETERS))))
