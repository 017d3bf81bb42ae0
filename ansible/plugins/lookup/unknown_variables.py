"""Variables of an inventory that begin with arqonbus_ and are none, each as a sentence."""

from __future__ import annotations

import difflib
from pathlib import Path

import yaml
from ansible.plugins.lookup import LookupBase

DOCUMENTATION = """
name: unknown_variables
short_description: Misspelt variables of an inventory, as sentences
description:
  - Compares the names of all variables that begin with C(arqonbus_) with those that specifications declare.
options:
  _terms:
    description: Files with argument specifications, of an inventory or of a role.
    required: true
"""

RETURN = """
_raw:
  description: One sentence for each variable that is not declared.
  type: list
"""

PREFIX = "arqonbus_"


def declared(files: list[str]) -> set[str]:
    """The names of all options of all entry points."""
    names: set[str] = set()
    for file in files:
        specification = yaml.safe_load(Path(file).read_text(encoding="utf-8"))["argument_specs"]
        for entry in specification.values():
            names.update(entry.get("options", {}))
    return names


def sentences(given: list[str], known: set[str]) -> list[str]:
    """What is wrong with each name that nobody declares, and what was meant."""
    found = []
    for name in sorted(set(given) - known):
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]}?" if close else f"there is {', '.join(sorted(known))}."
        found.append(f"{name} is no variable of an inventory; {hint}")
    return found


class LookupModule(LookupBase):
    """What a play calls as query('unknown_variables', file, ...)."""

    def run(self, terms, variables=None, **kwargs):
        names = [name for name in variables or {} if name.startswith(PREFIX)]
        return sentences(names, declared(terms))
