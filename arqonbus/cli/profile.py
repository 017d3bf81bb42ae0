"""`arqonbus profile`: show, explain, compare and render profiles."""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arqonbus.cli import Failure
from arqonbus.cli.actions import actions_of
from arqonbus.cli.profile_options import add_profile_options, load_profile
from arqonbus.cli.table import Style, print_table, printable, styled

if TYPE_CHECKING:
    from arqonbus.config import Resolved

SUMMARY = "Show the settings of a profile and where each is set."

EPILOG = """examples:
  arqonbus profile show --profile prod
  arqonbus profile show --profile prod --all --json
  arqonbus profile explain server.port --set server.port=9200
  arqonbus profile digest --profile staging
  arqonbus profile sources --variables
  arqonbus profile diff staging prod
  arqonbus profile plan /etc/arqonbus/old/profile.yaml prod
  arqonbus profile schema > profiles/profile.schema.json
  arqonbus profile render systemd --profile prod --out arqonbus@.service
  arqonbus profile render compose-env --profile dev --check .env

Secrets are never shown. exit codes: 0 done, 1 failed, 2 wrong usage, 3 unreadable profile"""


def configure(parser: argparse.ArgumentParser) -> None:
    add = actions_of(parser, EPILOG)

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        added = add(name, summary)
        added.add_argument("--json", action="store_true", help="write JSON")
        if name != "schema":
            add_profile_options(added)
        return added

    show = action("show", "Show every setting that is set explicitly, and where.")
    show.add_argument("--all", action="store_true", help="include settings with their default value")
    show.add_argument("--format", choices=("text", "json"), default="text", help="json: same as --json")
    explain = action("explain", "Explain one setting: its value, where it is set, and what it overrides.")
    explain.add_argument("key", metavar="KEY", help="dotted key, such as server.port")
    action("digest", "Print the SHA-256 of the settings, without secrets.")
    sources = action("sources", "Show the layers of a profile, lowest first.")
    sources.add_argument(
        "--variables", action="store_true", help="list every environment variable that sets a setting"
    )
    diff = action("diff", "Compare two profiles, and show where each value is set.")
    diff.add_argument("left", metavar="A", help="name or path of a profile")
    diff.add_argument("right", metavar="B", help="name or path of another profile")
    plan = action("plan", "Plan the change from one profile to another: reload, restart or migration.")
    plan.add_argument("left", metavar="OLD", help="name or path of the current profile")
    plan.add_argument("right", metavar="NEW", help="name or path of the new profile")
    render = action("render", "Render a profile for a deployment tool.")
    render.add_argument("target", metavar="TARGET", choices=_TARGETS, help=", ".join(_TARGETS))
    where = render.add_mutually_exclusive_group()
    where.add_argument("--out", metavar="FILE", type=Path, help="write it to a file")
    where.add_argument("--check", metavar="FILE", type=Path, help="compare with a file; exit 1 if it differs")
    schema = action("schema", "Print the JSON Schema of a profile, for editors.")
    schema.add_argument(
        "--check", metavar="FILE", type=Path, help="compare with a file; exit 1 if it differs"
    )


def run(args: argparse.Namespace) -> int:
    return _ACTIONS[args.action](args)


def _show(args: argparse.Namespace) -> int:
    from arqonbus.config.tree import leaves

    args.json = args.json or args.format == "json"
    resolved = load_profile(args, secrets_of=())
    settings = resolved.redacted()
    if args.json:
        _print_json({"profile": resolved.profile, "digest": resolved.digest, "settings": settings})
        return 0
    rows = []
    for path, leaf in leaves().items():
        place = resolved.location(leaf.key)
        if args.all or place.layer != "defaults":
            value: Any = settings
            for part in path:
                value = value[part]
            rows.append((leaf.key, _text(value), str(place)))
    print_table(("SETTING", "VALUE", "FROM"), rows)
    return 0


def _explain(args: argparse.Namespace) -> int:
    from arqonbus.config.tree import leaves, suggestion

    resolved = load_profile(args, secrets_of=())
    path = tuple(args.key.split("."))
    if path not in leaves():
        inside = [leaf.key for known, leaf in leaves().items() if known[: len(path)] == path]
        hint = f"it is a section; give one of {', '.join(inside)}" if inside else suggestion(path)
        raise Failure(f"{args.key} is not a setting; {hint}")
    leaf, why = leaves()[path], resolved.explain(args.key)
    extra = leaf.field.json_schema_extra
    about: Mapping[str, Any] = extra if isinstance(extra, dict) else {}
    if args.json:
        _print_json(
            {
                "key": why.key,
                "value": why.value,
                "layer": why.location.layer,
                "location": str(why.location),
                "overrides": [
                    {"value": step.value, "layer": step.location.layer, "location": str(step.location)}
                    for step in why.overridden
                ],
                "description": leaf.field.description,
                "reload": about.get("reload"),
                "since": about.get("since"),
            }
        )
        return 0
    print(f"{styled(why.key, 'bold')} = {printable(_text(why.value))}")
    print(f"  set by {why.location}")
    for step in why.overridden:
        print(f"  over {printable(_text(step.value))} by {step.location}")
    print(f"\n{leaf.field.description}")
    print(f"A change takes effect: {_RELOADS[about['reload']]}")
    return 0


_RELOADS = {
    "hot": "at a reload (hot).",
    "rolling": "when a node restarts; restart the nodes one after another (rolling).",
    "cold": "after all nodes were stopped and started again (cold).",
}


def _digest(args: argparse.Namespace) -> int:
    resolved = load_profile(args, secrets_of=())
    if args.json:
        _print_json({"profile": resolved.profile, "digest": resolved.digest})
    else:
        print(resolved.digest)
    return 0


def _sources(args: argparse.Namespace) -> int:
    from arqonbus.config.environment import variables
    from arqonbus.config.tree import leaves

    if args.variables:
        names = {name: leaf.key for name, leaf in sorted(variables().items())}
        if args.json:
            _print_json(names)
        else:
            print_table(
                ("VARIABLE", "SETTING", "HERE"),
                [(name, key, "set" if name in os.environ else "") for name, key in names.items()],
            )
        return 0
    resolved = load_profile(args, secrets_of=())
    counts = Counter(resolved.location(leaf.key).layer for leaf in leaves().values())
    rows = [("defaults", "this version of arqonbus", counts["defaults"])]
    rows += [(layer.name, layer.source, counts[layer.name]) for layer in resolved.provenance.layers]
    if args.json:
        _print_json([{"layer": name, "source": source, "decides": count} for name, source, count in rows])
    else:
        print_table(("LAYER", "SOURCE", "DECIDES"), rows)
    return 0


def _diff(args: argparse.Namespace) -> int:
    from arqonbus.config.compare import differences

    found = differences(_named(args, args.left), _named(args, args.right))
    if args.json:
        _print_json(
            [
                {
                    "key": each.key,
                    "left": {"value": each.left, "location": str(each.left_location)},
                    "right": {"value": each.right, "location": str(each.right_location)},
                }
                for each in found
            ]
        )
    elif not found:
        print("The two profiles have the same settings.")
    else:
        rows = [(each.key, _text(each.left), _text(each.right)) for each in found]
        print_table(("SETTING", args.left, args.right), rows)
    return 0


def _plan(args: argparse.Namespace) -> int:
    from arqonbus.config.compare import plan

    found = plan(_named(args, args.left), _named(args, args.right))
    if args.json:
        changes = [
            {
                "key": change.difference.key,
                "old": change.difference.left,
                "new": change.difference.right,
                "effort": change.effort,
                "consequence": change.consequence,
            }
            for change in found.changes
        ]
        _print_json({"effort": found.effort, "changes": changes})
        return 1 if found.effort == "forbidden" else 0
    if found.effort is None:
        print("Nothing changes.")
        return 0
    for change in found.changes:
        each = change.difference
        style = _EFFORT_STYLES[change.effort]
        print(f"{styled(each.key, 'bold')}: {printable(_text(each.left))} -> {printable(_text(each.right))}")
        print(f"  {styled(change.effort, style)}: {change.consequence}")
    print(f"\nTo apply the change: {_EFFORTS[found.effort]}")
    return 1 if found.effort == "forbidden" else 0


_EFFORT_STYLES: Mapping[str, Style] = {
    "hot": "green",
    "rolling": "green",
    "cold": "yellow",
    "migration": "yellow",
    "forbidden": "red",
}

_EFFORTS = {
    "hot": "send SIGHUP to each node.",
    "rolling": "restart the nodes one after another.",
    "cold": "stop all nodes, then start them with the new profile.",
    "migration": "stop all nodes, move the data, then start them with the new profile.",
    "forbidden": "this change is refused.",
}


def _named(args: argparse.Namespace, profile: str) -> Resolved:
    """Load a profile by the name or path in an argument, instead of --profile."""
    return load_profile(argparse.Namespace(**{**vars(args), "profile": profile}), secrets_of=())


def _schema(args: argparse.Namespace) -> int:
    from arqonbus.config.schema import profile_schema_text

    text = profile_schema_text()
    if args.check is None:
        print(text, end="")
        return 0
    _compare(args.check, text, f"arqonbus profile schema > {args.check}")
    return 0


# The targets of arqonbus.deploy.render, which is not imported for the help; a test compares them.
_TARGETS = (
    "systemd",
    "systemd-projector",
    "compose-env",
    "ansible",
    "prometheus",
    "prometheus-rules",
    "compose-prometheus",
)


def _render(args: argparse.Namespace) -> int:
    from arqonbus.deploy.render import Unrenderable, render

    resolved = load_profile(args, secrets_of=(), environ=_controls())
    runbooks = {file.stem for file in Path("runbooks/alerts").glob("*.md")}
    try:
        text = render(args.target, resolved, runbooks)
    except Unrenderable as error:
        raise Failure(f"{args.target} cannot be rendered for this profile: {error}") from error
    command = f"arqonbus profile render {args.target} --profile {resolved.profile} --out"
    if args.check is not None:
        _compare(args.check, text, f"{command} {args.check}")
    elif args.out is not None:
        try:
            args.out.write_text(text, "utf-8")
        except OSError as error:
            raise Failure(f"{args.out} cannot be written ({error.strerror})") from error
    elif args.json:
        _print_json({"target": args.target, "text": text})
    else:
        print(text, end="")
    return 0


def _controls() -> Mapping[str, str]:
    """The variables that select the profile. Other variables of this machine do not apply elsewhere."""
    from arqonbus.config.environment import CONTROLS

    return {name: value for name, value in os.environ.items() if name in CONTROLS}


def _compare(file: Path, text: str, command: str) -> None:
    try:
        current = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"{file} cannot be read; write it with: {command}") from error
    if current != text:
        raise Failure(f"{file} is not up to date; write it with: {command}")


_ACTIONS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "show": _show,
    "explain": _explain,
    "digest": _digest,
    "sources": _sources,
    "diff": _diff,
    "plan": _plan,
    "render": _render,
    "schema": _schema,
}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))
