"""Facts about the files that a profile names: existence, owner, mode and content.

Only reads, and never raises: an unreadable file is a fact.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from arqonbus.config import Settings
from arqonbus.config.regular_file import NotRegular, read_regular
from arqonbus.preflight.certificates import certificate_fact, key_fact
from arqonbus.preflight.facts import CertificateFact, FileFact, KeyFact
from arqonbus.preflight.intake import Intake
from arqonbus.shield.policy import ContentPolicy
from arqonbus.shield.revocations import read_revocations
from arqonbus.shield.schemas import compile_schema
from arqonbus.shield.signatures import SignatureBook

PEM_BYTES = 2**20


def files(intake: Intake) -> Iterator[FileFact]:
    """Every file that the profile names, and the profile's own files."""
    named = _named_files(intake.resolved.settings, intake.root)
    yield from (_file(key, path) for key, path in (*named, *_profile_files(intake)))


def _named_files(settings: Settings, root: Path) -> Iterator[tuple[str, Path]]:
    tls, stores = settings.server.tls, settings.datastores
    named: list[tuple[str, Path | None]] = [
        ("server.tls.cert_file", tls.cert_file),
        ("server.tls.key_file", tls.key_file),
        ("server.tls.client_ca_file", tls.client_ca_file),
        ("datastores.postgres.ca_file", stores.postgres.ca_file),
    ]
    for store, files in (("valkey", stores.valkey.tls), ("nats", stores.nats.tls)):
        named += [
            (f"datastores.{store}.tls.cert_file", files.cert_file),
            (f"datastores.{store}.tls.key_file", files.key_file),
            (f"datastores.{store}.tls.ca_file", files.ca_file),
        ]
    auth = settings.auth
    named += [("auth.jwt.jwks_ca_file", auth.jwt.jwks_ca_file), ("auth.revoked", auth.revoked)]
    named += [("auth.jwt.public_keys", key.file) for key in auth.jwt.public_keys]
    named += [("auth.signers", signer.file) for signer in auth.signers]
    named += [("schemas", schema.file) for schema in settings.schemas]
    yield from ((key, root / path) for key, path in named if path is not None)


def unusable(settings: Settings, root: Path) -> Iterator[str]:
    """Errors in existing schemas, signer keys and policies that would stop the start."""
    for schema in settings.schemas:
        if (root / schema.file).is_file():
            try:
                compile_schema(schema, root=root)
            except ValueError as error:
                yield str(error)
    try:
        SignatureBook(settings.auth.signers)
    except ValueError as error:
        yield str(error)
    try:
        ContentPolicy(settings.policy)
    except ValueError as error:
        yield str(error)


def revocations_problem(settings: Settings, root: Path) -> str:
    """The error in the list of revoked tokens that would stop the start; empty if there is none."""
    if settings.auth.revoked is not None:
        try:
            read_revocations(root / settings.auth.revoked)
        except ValueError as error:
            return str(error)
    return ""


def _profile_files(intake: Intake) -> Iterator[tuple[str, Path]]:
    for layer in intake.resolved.provenance.layers:
        if layer.name in ("base", "profile", "overlay"):
            yield "profile", intake.root / layer.source
        if layer.name == "secrets":
            for place in sorted({place.source for place in layer.places.values()}):
                yield "secret", Path(place)


def _file(key: str, path: Path) -> FileFact:
    try:
        status = path.stat()
    except FileNotFoundError:
        return FileFact(key=key, path=str(path), state="missing", reason="does not exist")
    except OSError as error:
        return FileFact(
            key=key, path=str(path), state="unreadable", reason=f"cannot be read ({error.strerror})"
        )
    mode, owner = stat.S_IMODE(status.st_mode), status.st_uid
    if stat.S_ISDIR(status.st_mode):
        return FileFact(
            key=key, path=str(path), state="directory", mode=mode, owner=owner, reason="is a directory"
        )
    if not stat.S_ISREG(status.st_mode):
        return FileFact(key=key, path=str(path), state="other", mode=mode, owner=owner)
    if not os.access(path, os.R_OK):
        reason = "is not readable by this user"
        return FileFact(key=key, path=str(path), state="unreadable", mode=mode, owner=owner, reason=reason)
    return FileFact(key=key, path=str(path), state="file", mode=mode, owner=owner)


def _bytes(path: Path) -> tuple[bytes, int, int] | None:
    """Content, mode and owner; None for a file that `_file` already reports."""
    try:
        content = read_regular(path, PEM_BYTES, follow_links=True)
        return content.raw, content.mode, path.stat().st_uid
    except (OSError, NotRegular):
        return None


def certificates(settings: Settings, root: Path) -> Iterator[CertificateFact]:
    """The first certificate of each certificate file of the profile."""
    for key, path in _named_files(settings, root):
        content = _bytes(path) if key.endswith(("cert_file", "ca_file")) else None
        if content is not None:
            yield certificate_fact(key, path, content[0])


def keys(settings: Settings, root: Path) -> Iterator[KeyFact]:
    """The private keys of the profile, each with its certificate."""
    named = dict(_named_files(settings, root))
    for key, path in named.items():
        content = _bytes(path) if key.endswith("key_file") else None
        if content is not None:
            beside = named.get(key.replace("key_file", "cert_file"))
            certificate = _bytes(beside) if beside else None
            raw, mode, owner = content
            yield key_fact(
                key, path, raw, mode=mode, owner=owner, certificate=certificate[0] if certificate else None
            )


__all__ = ["certificates", "files", "keys", "revocations_problem", "unusable"]
