"""What has to hold for any text in the place of a profile: settings, or findings in sentences, nothing else.

The first byte says where the rest goes: 2 base.yaml, 3 one `--set`, 4 one variable, 5 the file of a secret,
anything else the profile.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from arqonbus.config import ConfigError, Resolved, load
from arqonbus.config.environment import variables
from arqonbus.config.tree import leaves
from tests.fuzz.targets import hold

REPOSITORY = Path(__file__).resolve().parents[2]

_PROFILE = b"environment: dev\nserver: {host: 127.0.0.1}\n"
_SECRET = "s3cret-" + "x" * 40


@cache
def _place() -> Path:
    """A directory of this process, in which every profile is written over the one before."""
    root = Path(tempfile.mkdtemp(prefix="arqonbus-fuzz-"))
    (root / "profiles/dev").mkdir(parents=True)
    (root / "secrets").mkdir()
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root


def profile_loader(data: bytes) -> None:
    """A profile is loaded whole, or refused with sentences that show no secret."""
    root, where, rest = _place(), data[:1], data[1:]
    profile, base, secret = _PROFILE, b"", _SECRET.encode()
    overrides: list[str] = []
    environ: dict[str, str] = {}
    text = rest.decode("utf-8", "ignore").replace("\0", "")
    match where:
        case b"\x02":
            base = rest
        case b"\x03":
            overrides.append(text)
        case b"\x04":
            key, _, value = text.partition("=")
            names = sorted(variables())
            environ[names[sum(key.encode()) % len(names)]] = value
        case b"\x05":
            secret = rest
        case _:
            profile = rest
    (root / "profiles/base.yaml").write_bytes(base)
    (root / "profiles/dev/profile.yaml").write_bytes(profile)
    file = root / "secrets/auth.jwt.secret"
    file.write_bytes(secret)
    file.chmod(0o600)
    try:
        resolved = load(
            "dev",
            root=root,
            environ=environ,
            overrides=overrides,
            secrets_dir=root / "secrets",
            # A reference of the profile could name any command and any file; they are read and not followed.
            secrets_of=(),
        )
    except ConfigError as error:
        hold(bool(error.findings), "a refusal without a finding")
        for finding in error.findings:
            hold(bool(finding.message) and "Traceback" not in finding.message, "a finding says nothing")
            hold(_SECRET not in str(finding), "a finding shows a secret")
        return
    _can_be_shown(resolved)


def _can_be_shown(resolved: Resolved) -> None:
    shown = json.dumps(resolved.redacted())
    hold(_SECRET not in shown, "a secret is shown")
    hold(len(resolved.digest) == 64, "there is no digest")
    for leaf in leaves().values():
        json.dumps([str(resolved.location(leaf.key)), resolved.explain(leaf.key).value])


_LITERALS = (
    b"",
    b"a",
    b"[]\n",
    b"- a\n- b\n",
    b"\tserver: x\n",
    b"server:\n\tport: 1\n",
    b"server: {port: 1, port: 2}\n",
    b"server: *x\n",
    b"server: &x {tls: *x}\n",
    b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nrooms: [*c, *c]\n",
    b"server: !!python/object:os.system x\n",
    b"? [a]\n: b\n",
    b"<<: {server: {port: 1}}\n",
    b"---\na: 1\n---\nb: 2\n",
    b"%YAML 1.1\n---\nserver: {port: 0o17}\n",
    b"\xef\xbb\xbfenvironment: dev\n",
    b"environment: \xff\n",
    b"environment: 'd\x07ev'\n",
    b"environment: yes\nserver: {port: 1:30, drain_seconds: .inf, max_connections: 1e9}\n",
    b"protocol: {max_frame_bytes: 64KiB}\nstorage: {dedup_window: 5m, history: {max_age: 99999999999999d}}\n",
    b"auth: {jwt: {secret: {from: env, name: X}, previous_secret: {value: [a], valid_until: 2030-13-01}}}\n",
    b"auth: {jwt: {secret: @format x, algorithms: [HS256, [x]]}}\n",
    b"datastores: {valkey: {url: 'valkey://u:p@[::1', sentinel: {nodes: [a:1, b]}}}\n",
    b"rooms: [{match: 'a*', history: off}, {match: '', schema: x}, x, {}]\n",
    b"host_overlay: profiles/dev/profile.yaml\n",
    b"host_overlay: /dev/zero\n",
    b"environment: prod\nauth: {jwt: {secret: x, skip_validation: false}}\n",
    b"a: " + b"[" * 60 + b"]" * 60 + b"\n",
    b"environment: >\n  dev\nserver: |\n  x\n",
)
SEEDS: Sequence[bytes] = [
    *(
        b"\0" + file.read_bytes()
        for file in (
            REPOSITORY / "profiles/base.yaml",
            *sorted((REPOSITORY / "profiles").glob("*/profile.yaml")),
        )
    ),
    *(bytes((where,)) + text for where in (1, 2) for text in _LITERALS),
    b"\x03server.port=9200",
    b"\x03rooms=[{match: a}]",
    b"\x03auth.jwt.secret=",
    b"\x03=",
    b"\x04a=9200",
    b"\x04b=[a, 'b]",
    b"\x04c=",
    b"\x05",
    b"\x05\n",
    b"\x05\xff\xfe",
    b"\x05a\0b",
]

__all__ = ["SEEDS", "profile_loader"]
