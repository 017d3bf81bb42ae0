"""Pages of docs/reference that are generated from the code."""

from __future__ import annotations

import argparse
import ast
import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]


def pages() -> dict[Path, str]:
    """Every generated page of docs/reference, by its path in the repository."""
    return {**errors(), **settings(), **checks(), **commands(), **metrics(), **cli()}


def _opening(title: str, text: str) -> list[str]:
    """The lines of a page's heading and first paragraph."""
    return [f"# {title}", "", *textwrap.wrap(" ".join(text.split()), 118, break_on_hyphens=False), ""]


def errors() -> dict[Path, str]:
    from arqonbus.protocol.errors import EXPLANATIONS

    lines = [
        *_opening(
            "Error codes",
            """
    Stable: a code is never renamed or reused. Codes are in `status.code` of an envelope and in `code` of
    the JSON body of a refused upgrade. This page is generated from `arqonbus/protocol/errors.py`.
            """,
        ),
    ]
    for code, explanation in EXPLANATIONS.items():
        again = " Trying again later may help." if explanation.retry else ""
        lines += [f"## {code.value}", "", f"{explanation.meaning} {explanation.remedy}{again}", ""]
    return {Path("docs/reference/errors.md"): "\n".join(lines)}


def settings() -> dict[Path, str]:
    from arqonbus.config.environment import ALIASES
    from arqonbus.config.redaction import redacted
    from arqonbus.config.settings import Settings
    from arqonbus.config.tree import Leaf, children, leaves

    reloads = {"hot": "at SIGHUP", "rolling": "restart, node by node", "cold": "restart, all nodes at once"}
    defaults = redacted(Settings())
    short: dict[str, list[str]] = {}
    for name, key in ALIASES.items():
        short.setdefault(key, []).append(name)

    def shown(value: object) -> str:
        return f"`{json.dumps(value, ensure_ascii=False)}`"

    def entry(leaf: Leaf) -> list[str]:
        extra = leaf.field.json_schema_extra
        about = extra if isinstance(extra, dict) else {}
        default = defaults
        for part in leaf.path:
            default = default[part]
        variables = [*short.get(leaf.key, []), f"ARQONBUS_{'__'.join(leaf.path).upper()}"]
        lines = [f"### {leaf.key}", "", str(leaf.field.description), ""]
        lines += [f"- default: {shown(default)}", f"- example: {shown((leaf.field.examples or [None])[0])}"]
        lines += [f"- a change takes effect: {reloads[str(about['reload'])]}", f"- since: {about['since']}"]
        if not leaf.available:
            lines.append("- this version supports the default only")
        lines.append("- environment: " + ", ".join(f"`{name}`" for name in variables))
        if about["secret"] == "value":  # noqa: S105 - a kind
            lines.append("- secret: give a reference (`{from: credential, name: …}`), never the value")
        elif about["secret"] == "url":  # noqa: S105 - a kind
            lines.append("- a password inside is never shown; better, give it in the setting beside it")
        if leaf.items is not None:
            lines += ["", "Each entry of the list has:", ""]
            lines += [f"- `{name}`: {field.description}" for name, field in children(leaf.items).items()]
        return [*lines, ""]

    text = [
        *_opening(
            "Settings",
            """
    Every setting of a profile, in the order of `arqonbus profile show --all`. Sizes take units (`64KiB`,
    `1MiB`), durations too (`5s`, `24h`, `7d`). The highest of these layers that sets a value decides: the
    defaults, `profiles/base.yaml`, the profile, the declared host overlay, the secrets directory, the
    environment, `--set`. A list replaces the list of a lower layer as a whole. `arqonbus profile explain KEY`
    shows which layer decided. This page is generated.
            """,
        ),
    ]
    section = ""
    for leaf in leaves().values():
        if leaf.path[0] != section:
            section = leaf.path[0]
            text += [f"## {section}", ""]
        text += entry(leaf)
    return {Path("docs/reference/settings.md"): "\n".join(text)}


def checks() -> dict[Path, str]:
    from arqonbus.preflight.registry import FAMILIES
    from arqonbus.preflight.registry import checks as registered

    environments = ("dev", "staging", "prod")
    found = registered().values()
    text = [
        *_opening(
            "Checks of the preflight",
            """
    Every check of `arqonbus preflight`, by family. An id is never renamed or reused, because waivers and
    receipts name it. *static* checks need the profile only, *host* checks inspect this machine, *online*
    checks ask the servers. The severity of a failed check depends on the environment: *off*, the check is not
    run; *warning*, it is reported; *error*, nothing starts, unless `profiles/<environment>/waivers.yaml`
    waives the check; *fatal*, a waiver has no effect. `arqonbus preflight --explain ID` prints an entry. This
    page is generated.
            """,
        ),
        "## Policy of the environments",
        "",
        f"All {len(found)} checks. Staging is judged like prod: what would fail in prod fails there first.",
        "",
        "| check | requirement | phase | dev | staging | prod |",
        "|---|---|---|---|---|---|",
    ]
    for each in found:
        severities = [each.severity[name].value for name in environments]
        title = each.title.replace("|", "\\|")
        row = [f"[{each.id}](#{each.id.lower()})", title, each.phase.value, *severities]
        text.append(f"| {' | '.join(row)} |")
    text.append("")
    for family, about in FAMILIES.items():
        text += [f"## {family}: {about}", ""]
        for each in (check for check in found if check.family == family):
            severities = [f"{name} {each.severity[name].value}" for name in environments]
            text += [f"### {each.id}", "", f"**{each.title}.** {each.why}", ""]
            text += [f"- phase: {each.phase.value}", f"- if it fails: {', '.join(severities)}"]
            for word, values in (("settings", each.reads), ("requires", each.requires), ("tags", each.tags)):
                if values:
                    text.append(f"- {word}: " + ", ".join(f"`{value}`" for value in values))
            text += ["", "Fix:", "", "```", *each.fix, "```", ""]
    return {Path("docs/reference/checks.md"): "\n".join(text)}


def commands() -> dict[Path, str]:
    import msgspec

    from arqonbus.commands.dispatch import COMMANDS

    text = [
        *_opening(
            "Commands",
            """
    Operations that a client calls with an envelope of kind COMMAND: `name` is the operation, the payload its
    arguments as JSON. [The protocol](protocol.md) describes the exchange and the results; `op.help` returns
    the same schemas from a running bus. This page is generated.
            """,
        ),
        "| operation | role | summary |",
        "|---|---|---|",
    ]
    for command in COMMANDS.values():
        anchor = command.name.replace(".", "")
        text.append(f"| [{command.name}](#{anchor}) | {command.who} | {_cell(command.summary)} |")
    for command in COMMANDS.values():
        schema = msgspec.json.schema(command.arguments)
        structs = {f"#/$defs/{name}": about for name, about in schema["$defs"].items()}
        struct = structs[schema["$ref"]]
        text += ["", f"## {command.name}", "", command.summary, ""]
        if command.who != "any":
            text += [f"Role: {command.who}.", ""]
        if not struct["properties"]:
            text.append("No arguments.")
            continue
        text += ["| argument | type | default |", "|---|---|---|"]
        for name, about in struct["properties"].items():
            default = "required" if name in struct.get("required", []) else _code(about.get("default"))
            text.append(f"| `{name}` | {_type(about, structs)} | {default} |")
        if note := struct.get("description"):
            text += ["", " ".join(note.split())]
    return {Path("docs/reference/commands.md"): "\n".join([*text, ""])}


def _type(schema: Mapping[str, Any], structs: Mapping[str, Any]) -> str:
    """A JSON Schema of one argument in words. `structs` are the definitions that it refers to."""
    if "anyOf" in schema:
        return " or ".join(_type(each, structs) for each in schema["anyOf"])
    if "$ref" in schema:
        return "object with " + ", ".join(f"`{name}`" for name in structs[schema["$ref"]]["properties"])
    if "enum" in schema:
        return " or ".join(f"`{each}`" for each in schema["enum"])
    kind = str(schema.get("type", "any JSON value"))
    if kind == "array":
        kind = f"array of {_type(schema['items'], structs)}"
    bounds = {
        "minimum": "≥ {}",
        "maximum": "≤ {}",
        "minLength": "at least {} characters",
        "maxLength": "at most {} characters",
        "minItems": "at least {}",
        "maxItems": "at most {}",
        "pattern": "`{}`",
    }
    limits = [form.format(schema[key]) for key, form in bounds.items() if key in schema]
    return _cell(", ".join([kind, *limits]))


class MetricFamily(NamedTuple):
    """One family of metrics as the code declares it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    description: str


# The calls that declare a family, in arqonbus/telemetry, and the Prometheus type of each.
_DECLARATIONS = {
    "_gauge": "gauge",
    "GaugeMetricFamily": "gauge",
    "Gauge": "gauge",
    "_counter": "counter",
    "_by": "counter",
    "CounterMetricFamily": "counter",
    "Histogram": "histogram",
}


def metric_families() -> Iterator[MetricFamily]:
    """The families that the modules of arqonbus/telemetry declare. A counter's name ends in _total."""
    for file in sorted((ROOT / "arqonbus/telemetry").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in _DECLARATIONS
            ):
                match node.args:
                    case [ast.Constant(str() as name), ast.Constant(str() as description), *rest]:
                        kind = _DECLARATIONS[node.func.id]
                        given = [each.value for each in node.keywords if each.arg == "labels"]
                        if node.func.id == "_by":
                            given = rest[:1]
                        labels = [ast.literal_eval(each) for each in given]
                        flat = tuple(
                            label for each in labels for label in ([each] if isinstance(each, str) else each)
                        )
                        suffix = "_total" if kind == "counter" else ""
                        yield MetricFamily(name + suffix, kind, flat, description)


def metrics() -> dict[Path, str]:
    import yaml

    rules = yaml.safe_load((ROOT / "observability/prometheus/rules.yml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule]
    text = [
        *_opening(
            "Metrics",
            """
    What `/metrics` on the telemetry port exposes, in the text format of Prometheus. A histogram has the
    suffixes `_bucket`, `_sum` and `_count`. [Watch a bus](../howto/watch.md) says what to look at first. This
    page is generated.
            """,
        ),
        "| metric | type | labels | meaning | alerts |",
        "|---|---|---|---|---|",
    ]
    for family in sorted(set(metric_families())):
        pattern = rf"\b{family.name}(_bucket|_sum|_count)?\b"
        used = [rule["alert"] for rule in alerts if re.search(pattern, str(rule["expr"]))]
        links = ", ".join(f"[{name}](../../runbooks/alerts/{name}.md)" for name in dict.fromkeys(used))
        labels = ", ".join(f"`{label}`" for label in family.labels)
        text.append(f"| `{family.name}` | {family.kind} | {labels} | {_cell(family.description)} | {links} |")
    return {Path("docs/reference/metrics.md"): "\n".join([*text, ""])}


def cli() -> dict[Path, str]:
    from arqonbus.cli import COMMANDS, parser_of

    text = [
        *_opening(
            "Command line",
            """
    Every command with its options and examples; `arqonbus COMMAND --help` prints the same. Exit codes: 0
    done, 1 failed, 2 wrong usage, 3 unreadable profile, 130 interrupted. This page is generated.
            """,
        ),
        "| command | summary |",
        "|---|---|",
        *(f"| [{name}](#{name}) | {_cell(summary)} |" for name, summary in COMMANDS.items()),
        "",
    ]
    for name in COMMANDS:
        text += [f"## {name}", "", *_command_line(parser_of(name))]
    return {Path("docs/reference/cli.md"): "\n".join(text)}


def _command_line(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The lines about one parser and its subcommands. argparse has no public list of what was added."""
    yield from (str(parser.description), "") if parser.description else ()
    rows, inner = [], {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            inner = action.choices
        elif action.help is not argparse.SUPPRESS and not isinstance(action, argparse._HelpAction):
            rows.append(f"| {_cell(_signature(action))} | {_cell(_help_of(action, parser))} |")
    if rows:
        yield from ("| option | meaning |", "|---|---|", *rows, "")
    if parser.epilog:
        yield from ("```text", parser.epilog.strip(), "```", "")
    for name, each in inner.items():
        yield from (f"### {parser.prog.removeprefix('arqonbus ')} {name}", "", *_command_line(each))


def _signature(action: argparse.Action) -> str:
    given = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
    value = " ".join(given) if isinstance(given, tuple) else given
    if action.choices is not None and action.metavar is None:
        value = "|".join(map(str, action.choices))
    if not action.option_strings:
        return f"`{value}`"
    names = ", ".join(f"`{each}`" for each in action.option_strings)
    return names if action.nargs == 0 else f"{names} `{value}`"


def _help_of(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    return (action.help or "") % {**vars(action), "prog": parser.prog}


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _code(value: object) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`"
