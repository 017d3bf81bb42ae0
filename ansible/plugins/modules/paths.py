#!/usr/bin/python
"""Files and directories of a host as they are declared, many of them in one run of a module."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: paths
short_description: Files and directories as they are declared
description:
  - Does for many files what M(ansible.builtin.copy) and M(ansible.builtin.file) do for one each. A host is
    asked once, and not twice per file, which was a third of the time of a rollout that changes nothing.
  - A file is replaced whole and at once. Directories on the way to it that are missing are made, for
    everybody to read.
options:
  present:
    description: What has to be there, in this order.
    type: list
    elements: dict
    default: []
    suboptions:
      path: {description: Absolute or below O(directory)., type: str, required: true}
      content: {description: "What the file says; without it, the path is a directory.", type: str}
      owner: {description: A user that exists., type: str, default: root}
      group: {description: A group that exists., type: str, default: root}
      mode: {description: "In octal, else O(mode).", type: str}
      validate: {description: Accepts the file before it is used; %s is its path., type: str}
      notify: {description: "Not read here: for the task, whose C(notify) it can be.", type: raw}
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
    description: Of whatever names none.
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
  description: What was changed, or would be.
  type: list
  elements: str
  returned: always
"""

ENTRY = {
    "path": {"type": "str", "required": True},
    "content": {"type": "str"},
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "root"},
    "mode": {"type": "str"},
    "validate": {"type": "str"},
    "notify": {"type": "raw"},
}


class Paths:
    """Makes it as declared; `changed` and `differences` say what was changed, or in check mode would be."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self.changed: list[str] = []
        self.differences: list[dict[str, object]] = []

    def write(self, path: Path, entry: dict[str, str | None]) -> None:
        """Make one file or directory. The module ends with a sentence where something else is there."""
        is_directory = entry["content"] is None
        if os.path.lexists(path) and path.is_dir() is not is_directory:
            kinds = ("a directory", "a file") if is_directory else ("a file", "a directory")
            self._module.fail_json(msg=f"{path} has to be {kinds[0]} and is {kinds[1]}; move it away")
        changed = self._own(path, entry) if path.exists() and not path.is_symlink() else False
        made = self._make(path, entry) if is_directory else self._replace(path, entry)
        if made or changed:
            self.changed.append(str(path))

    def take_away(self, path: Path) -> None:
        """Remove a file, or a directory with all that is in it."""
        if not os.path.lexists(path):
            return
        self.changed.append(str(path))
        self._differs(path, "there\n", "")
        if self._module.check_mode:
            return
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()

    def _own(self, path: Path, entry: dict[str, str | None], *, shown: bool = True) -> bool:
        """Give it the owner, the group and the mode that were declared."""
        arguments = self._module.load_file_common_arguments(entry, str(path))
        difference = {"before": {}, "after": {}}
        changed = self._module.set_fs_attributes_if_different(arguments, False, difference)
        if changed and shown:
            self._differs(path, **difference)
        return bool(changed)

    def _make(self, path: Path, entry: dict[str, str | None]) -> bool:
        if path.is_dir():
            return False
        self._differs(path, "", "a directory\n")
        if not self._module.check_mode:
            self._make_way(path)
            path.mkdir()
            self._own(path, entry, shown=False)
        return True

    def _replace(self, path: Path, entry: dict[str, str | None]) -> bool:
        wanted = entry["content"].encode()
        before = path.read_bytes() if path.is_file() and not path.is_symlink() else None
        if before == wanted:
            return False
        self._differs(path, (before or b"").decode(errors="replace"), entry["content"])
        if self._module.check_mode:
            return True
        self._make_way(path)
        # Nobody sees it before it has its owner and its mode, and nobody sees a half of it.
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            fresh = Path(file.name)
            file.write(wanted)
            file.flush()
            os.fsync(file.fileno())
        try:
            self._own(fresh, entry, shown=False)
            if entry["validate"]:
                self._validate(path, fresh, entry["validate"])
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)
        return True

    def _make_way(self, path: Path) -> None:
        for directory in reversed([parent for parent in path.parents if not parent.exists()]):
            directory.mkdir()
            directory.chmod(0o755)

    def _validate(self, path: Path, fresh: Path, command: str) -> None:
        code, said, complained = self._module.run_command(command % fresh)
        if code:
            complaint = (complained or said).strip().replace(str(fresh), str(path))
            self._module.fail_json(msg=f"{path} was left as it is: {command % path} says {complaint}")

    def _differs(self, path: Path, before: object, after: object) -> None:
        headers = {"before_header": str(path), "after_header": str(path)}
        self.differences.append({"before": before, "after": after, **headers})


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "present": {"type": "list", "elements": "dict", "default": [], "options": ENTRY},
            "absent": {"type": "list", "elements": "str", "default": []},
            "directory": {"type": "str", "default": "/"},
            "mode": {"type": "str"},
        },
        supports_check_mode=True,
    )
    begin, paths = Path(module.params["directory"]), Paths(module)
    try:
        for entry in module.params["present"]:
            paths.write(begin / entry["path"], entry | {"mode": entry["mode"] or module.params["mode"]})
        for path in module.params["absent"]:
            paths.take_away(begin / path)
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}", paths=paths.changed)
    # Some files are secrets: a difference is shown where the task allows it, whatever the play is told.
    shown = {"diff": paths.differences} if module._diff else {}
    module.exit_json(changed=bool(paths.changed), paths=paths.changed, **shown)


if __name__ == "__main__":
    main()
