"""Signed receipts of a passed preflight, bound to settings, version, host, checks and time.

Reads and writes one file, and a key in state_dir. A user who can read the profile's secret could forge a
receipt, but could also start the bus without one.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import socket
from pathlib import Path
from typing import Any

from arqonbus import __version__
from arqonbus.config import Resolved, Settings
from arqonbus.config.regular_file import NotRegular, read_regular
from arqonbus.config.secrets import read_secret_file
from arqonbus.preflight.fingerprint import fingerprint
from arqonbus.preflight.registry import check_set
from arqonbus.preflight.runner import Report

FRESH_SECONDS = 900.0
KEY_NAME = "preflight-receipt-key"
_BYTES = 64 * 1024
_PURPOSE = b"arqonbus preflight receipt 1"


class ReceiptRefused(Exception):
    """A receipt that is not valid for this start; the message is a sentence."""


def receipt_of(report: Report, resolved: Resolved) -> dict[str, Any]:
    """The content of a receipt for this run, unsigned. Raises ReceiptRefused if the run did not pass."""
    if report.failures or report.empty:
        raise ReceiptRefused(
            "the preflight did not pass, so it gets no receipt; correct the findings and run it again"
        )
    jwt = resolved.settings.auth.jwt.secret
    return {
        "profile": report.loaded.profile,
        "environment": report.loaded.environment,
        "digest": report.loaded.digest,
        "version": __version__,
        "host": socket.gethostname(),
        "check_set": check_set(),
        "at": int(report.at),
        "phases": sorted({result.check.phase.value for result in report.results}),
        "warnings": len(report.warnings),
        "waived": sorted(result.check.id for result in report.waived),
        "secret_fingerprint": fingerprint(jwt.get_secret_value()) if jwt else None,
    }


def write_receipt(path: Path, receipt: dict[str, Any], settings: Settings, root: Path) -> None:
    """Sign and write a receipt atomically. Raises OSError, or ValueError for an unusable key."""
    signed = receipt | {"signature": _signature(receipt, _key(settings, root))}
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(json.dumps(signed, indent=2) + "\n")
        fresh.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):  # already renamed
            fresh.unlink()


def verify_receipt(
    path: Path, resolved: Resolved, root: Path, now: float, fresh: float = FRESH_SECONDS
) -> None:
    """Return if the receipt is valid for this start. Raises ReceiptRefused."""
    receipt = _read(path)
    signature = receipt.pop("signature", None)
    try:
        expected = _signature(receipt, _key(resolved.settings, root))
    except (OSError, ValueError) as error:
        raise ReceiptRefused(f"the receipt {path} cannot be verified: {error}") from error
    if not isinstance(signature, str) or not hmac.compare_digest(signature, expected):
        raise ReceiptRefused(
            f"the receipt {path} has an invalid signature: another key signed it, or it was changed"
        )
    wanted = {
        "digest": (resolved.digest, "other settings"),
        "environment": (resolved.settings.environment, "another environment"),
        "version": (__version__, "another version"),
        "host": (socket.gethostname(), "another host"),
        "check_set": (check_set(), "another set of checks"),
    }
    for key, (value, what) in wanted.items():
        if receipt.get(key) != value:
            raise ReceiptRefused(f"the receipt {path} is for {what}; run the preflight again")
    if receipt.get("phases") != ["host", "online", "static"]:
        raise ReceiptRefused(f"the receipt {path} covers only a part of the preflight; run all phases")
    at = receipt.get("at")
    if not isinstance(at, int) or not -60 <= now - at <= fresh:
        raise ReceiptRefused(
            f"the receipt {path} is older than {fresh:g} s or dated in the future; run the preflight again"
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = read_regular(path, _BYTES, follow_links=True).raw
        receipt = json.loads(raw) if len(raw) <= _BYTES else None
    except NotRegular:
        raise ReceiptRefused(f"{path} is not a regular file; give a receipt") from None
    except OSError as error:
        raise ReceiptRefused(f"the receipt {path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError):
        raise ReceiptRefused(
            f"{path} is not a receipt; write one with `arqonbus preflight --receipt`"
        ) from None
    if not isinstance(receipt, dict):
        raise ReceiptRefused(f"{path} is not a receipt; write one with `arqonbus preflight --receipt`")
    return receipt


def _signature(receipt: dict[str, Any], key: bytes) -> str:
    text = json.dumps(receipt, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _key(settings: Settings, root: Path) -> bytes:
    """The signing key, derived from the profile's secret; without a secret, a key in state_dir."""
    jwt = settings.auth.jwt.secret
    if jwt is not None:
        return hmac.new(jwt.get_secret_value().encode(), _PURPOSE, hashlib.sha256).digest()
    directory = root / settings.state_dir
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / KEY_NAME
    with contextlib.suppress(FileExistsError):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as stream:
            stream.write(secrets.token_urlsafe(48) + "\n")
    return read_secret_file(path).encode()


__all__ = ["FRESH_SECONDS", "ReceiptRefused", "receipt_of", "verify_receipt", "write_receipt"]
