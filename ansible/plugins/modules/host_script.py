#!/usr/bin/python
"""A Bash script, run on a host by an interpreter that imports nothing of Ansible."""

import json
import subprocess

DOCUMENTATION = r"""
module: host_script
short_description: Run a Bash script on a host
description:
  - Does what M(ansible.builtin.shell) does, for about a tenth of the host's processor time. Modules built on
    C(AnsibleModule) compile Ansible's library at each run. Those of this directory are JSONARGS modules, and
    need only Python's standard library.
  - A script that ends with another code than 0 fails the task.
options:
  script:
    description: What Bash runs. C(set -euo pipefail) is the script's own business.
    type: str
    required: true
  asks:
    description: The script changes nothing, so it runs in check mode, too, and never reports a change.
    type: bool
    default: false
  chdir:
    description: The directory to run in.
    type: str
attributes:
  check_mode:
    support: partial
    details: Unless O(asks=true), the script is not run in check mode and counts as a change.
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Look for the release that runs
  host_script:
    asks: true
    script: readlink /opt/service/current
  register: release
"""

RETURN = r"""
rc: {description: The exit code., type: int, returned: always}
stdout: {description: "What it printed, without line ends behind the last line.", type: str, returned: always}
stderr: {description: What it complained., type: str, returned: always}
"""

# Replaced by the parameters when the module is sent; JSON holds no three quotes in a row.
PARAMETERS = r"""<<INCLUDE_ANSIBLE_MODULE_JSON_ARGS>>"""


def run(parameters: dict) -> dict:
    """Run the script. Returns what the task is to know."""
    asks = bool(parameters.get("asks"))
    if parameters.get("_ansible_check_mode") and not asks:
        return {"changed": True, "rc": 0, "stdout": "", "stderr": "", "msg": "not run in check mode"}
    done = subprocess.run(
        ["/bin/bash", "-c", parameters["script"]],
        cwd=parameters.get("chdir"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    answer = {
        "changed": not asks,
        "rc": done.returncode,
        "stdout": done.stdout.decode(errors="replace").rstrip("\r\n"),
        "stderr": done.stderr.decode(errors="replace").rstrip("\r\n"),
    }
    if done.returncode != 0:
        answer |= {"failed": True, "msg": f"the script ended with {done.returncode}"}
    return answer


if __name__ == "__main__":
    print(json.dumps(run(json.loads(PARAMETERS))))
