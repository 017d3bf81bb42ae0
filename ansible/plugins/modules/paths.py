#!/usr/bin/python
"""Files and directories of a host as they are declared, many of them in one run of a module."""

import grp
import json
import os
import pwd
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

DOCUMENTATION = r"""
module: paths
short_description: Files and directories as they are declared
description:
  - Does for many files what M(ansible.builtin.copy) and M(ansible.builtin.file) do for one each, in one run.
  - A file is replaced whole and at once. Missing directories on the way to a file are made with mode 0755.
  - Needs only Python's standard library, see M(host_script).
options:
  present:
    description: What has to be there, in this order.
    type: list
    elements: dict
    default: []
    suboptions:
      path: {description: Absolute or below O(directory)., type: str, required: true}
      content: {description: "The text of the file; without it, the path is a directory.", type: str}
      owner: {description: A user that exists., type: str, default: root}
      group: {description: A group that exists., type: str, default: root}
      mode: {description: "In octal, else O(mode).", type: str}
      validate: {description: A command that accepts the file before it is used; %s is its path., type: str}
      notify: {description: "Not read here: for tasks that decide what is loaded again.", type: raw}
  absent:
    description: What must not be there, directories with all that is in them.
    type: list
    elements: str
    default: []
  directory:
    description: Where paths begin that are not absolute.
    type: str
    default: /
  mode:
    description: Mode of each entry that names none.
    type: str
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
"""

EXAMPLES = r"""
- name: Write what the service reads
  paths:
    directory: /etc/service
    mode: "0644"
    present:
      - {path: conf.d, mode: "0755"}
      - {path: conf.d/a.conf, content: "a = 1\n", validate: service --check %s}
    absent: [old.conf]
"""

RETURN = r"""
paths:
  description: What was changed, or would be in check mode.
  type: list
  elements: str
  returned: always
"""

# Replaced by the parameters when the module is sent; JSON holds no three quotes in a row.
PARAMETERS = r"""<<INCLUDE_ANSIBLE_MODULE_JSON_ARGS>>"""

ENTRY = ("path", "content", "owner", "group", "mode", "validate", "notify")


class Refused(Exception):
    """An entry that cannot be made as declared; the text says why."""


class Paths:
    """Makes paths as declared; lists in `changed` and `differences` what changed, or would in check mode."""

    def __init__(self, *, check: bool) -> None:
        self._check = check
        self.changed = []
        self.differences = []

    def write(self, path: Path, entry: dict) -> None:
        """Make one file or directory. Raises Refused and OSError."""
        owner = owner_of(entry)
        is_directory = entry.get("content") is None
        if os.path.lexists(path) and path.is_dir() is not is_directory:
            wanted, found = ("a directory", "a file") if is_directory else ("a file", "a directory")
            raise Refused(f"{path} has to be {wanted} and is {found}; move it away")
        changed = self._own(path, owner) if path.exists() and not path.is_symlink() else False
        made = self._make(path, owner) if is_directory else self._replace(path, entry, owner)
        if made or changed:
            self.changed.append(str(path))

    def remove(self, path: Path) -> None:
        """Remove a file, or a directory with all that is in it. Raises OSError."""
        if not os.path.lexists(path):
            return
        self.changed.append(str(path))
        self._differs(path, "there\n", "")
        if self._check:
            return
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()

    def _own(self, path: Path, wanted: dict) -> bool:
        """Set owner, group and mode where they differ."""
        found = path.stat()
        present = {"owner": found.st_uid, "group": found.st_gid, "mode": stat.S_IMODE(found.st_mode)}
        differing = [key for key, value in wanted.items() if value is not None and present[key] != value]
        if not differing:
            return False
        before, after = ({key: shown(key, side[key]) for key in differing} for side in (present, wanted))
        self._differs(path, before, after)
        if not self._check:
            own(path, wanted)
        return True

    def _make(self, path: Path, owner: dict) -> bool:
        if path.is_dir():
            return False
        self._differs(path, "", "a directory\n")
        if not self._check:
            make_parents(path)
            path.mkdir()
            own(path, owner)
        return True

    def _replace(self, path: Path, entry: dict, owner: dict) -> bool:
        wanted = entry["content"].encode()
        before = path.read_bytes() if path.is_file() and not path.is_symlink() else None
        if before == wanted:
            return False
        self._differs(path, (before or b"").decode(errors="replace"), entry["content"])
        if self._check:
            return True
        make_parents(path)
        # Owner and mode are set before the file can be seen, and it appears whole.
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            fresh = Path(file.name)
            file.write(wanted)
            file.flush()
            os.fsync(file.fileno())
        try:
            own(fresh, owner)
            if entry.get("validate"):
                validate(path, fresh, entry["validate"])
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)
        return True

    def _differs(self, path: Path, before: object, after: object) -> None:
        headers = {"before_header": str(path), "after_header": str(path)}
        self.differences.append({"before": before, "after": after, **headers})


def owner_of(entry: dict) -> dict:
    """Ids of the declared owner and group, and the mode. Raises Refused for names that the host has not."""
    owner, group, mode = entry.get("owner", "root"), entry.get("group", "root"), entry.get("mode")
    try:
        return {
            "owner": pwd.getpwnam(owner).pw_uid,
            "group": grp.getgrnam(group).gr_gid,
            "mode": None if mode is None else int(mode, 8),
        }
    except KeyError as error:
        raise Refused(f"{entry['path']}: this host has no such user or group: {error.args[0]}") from None
    except (ValueError, TypeError):
        raise Refused(f"{entry['path']}: the mode {mode!r} is not octal digits in quotes") from None


def own(path: Path, wanted: dict) -> None:
    """Set owner and group, then the mode, which a change of owner may have cleared."""
    os.chown(path, wanted["owner"], wanted["group"])
    if wanted["mode"] is not None:
        path.chmod(wanted["mode"])


def shown(key: str, value: int) -> object:
    """A mode in octal; ids as they are."""
    return f"{value:04o}" if key == "mode" else value


def make_parents(path: Path) -> None:
    """Make the missing directories on the way to a path."""
    for directory in reversed([parent for parent in path.parents if not parent.exists()]):
        directory.mkdir()
        directory.chmod(0o755)


def validate(path: Path, fresh: Path, command: str) -> None:
    """Let a command judge the file before it is used. Raises Refused with what the command says."""
    done = subprocess.run(shlex.split(command % fresh), capture_output=True, text=True, check=False)
    if done.returncode:
        complaint = (done.stderr or done.stdout).strip().replace(str(fresh), str(path))
        raise Refused(f"{path} was left as it is: {command % path} says {complaint}")


def checked(entry: dict, mode: object) -> dict:
    """An entry with its mode. Raises Refused for one that is not declared as documented."""
    unknown = sorted(set(entry) - set(ENTRY))
    if unknown:
        raise Refused(f"an entry of present has no option {', '.join(unknown)}; there is: {', '.join(ENTRY)}")
    if not entry.get("path"):
        raise Refused("an entry of present has no path")
    return entry | {"mode": entry.get("mode") or mode}


def main() -> int:
    """Do it, print the result, and return the exit code."""
    parameters = json.loads(PARAMETERS)
    begin = Path(parameters.get("directory", "/"))
    paths, failure = Paths(check=parameters.get("_ansible_check_mode", False)), {}
    try:
        entries = [checked(entry, parameters.get("mode")) for entry in parameters.get("present") or []]
        for entry in entries:
            paths.write(begin / entry["path"], entry)
        for path in parameters.get("absent") or []:
            paths.remove(begin / path)
    except Refused as error:
        failure = {"failed": True, "msg": str(error)}
    except OSError as error:
        failure = {"failed": True, "msg": f"{error.filename}: {error.strerror}"}
    # A task that writes secrets has `diff: false`.
    differences = {"diff": paths.differences} if parameters.get("_ansible_diff") else {}
    print(json.dumps({"changed": bool(paths.changed), "paths": paths.changed, **differences, **failure}))
    return 1 if failure else 0


if __name__ == "__main__":
    sys.exit(main())
