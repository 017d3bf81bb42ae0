"""The files that a profile names, as facts: whether they are there, whose they are, and what is in them.

Reads them, changes nothing, and never fails: what cannot be read is a fact.
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
    """Every file that the profile names, and those that it consists of."""
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
    """What the bus would refuse to start with, of that which is there."""
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
    """Why the bus would not start with the list of revoked tokens, as a sentence; '' if it would."""
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
        return FileFact(key=key, path=str(path), state="missing", reason="is not there")
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
        reason = "cannot be read by this user"
        return FileFact(key=key, path=str(path), state="unreadable", mode=mode, owner=owner, reason=reason)
    return FileFact(key=key, path=str(path), state="file", mode=mode, owner=owner)


def _bytes(path: Path) -> tuple[bytes, int, int] | None:
    """Content, mode and owner; None for what `_file` tells about already."""
    try:
        content = read_regular(path, PEM_BYTES, follow_links=True)
        return content.raw, content.mode, path.stat().st_uid
    except (OSError, NotRegular):
        return None


def certificates(settings: Settings, root: Path) -> Iterator[CertificateFact]:
    """The first certificate of each file that the profile names for one."""
    for key, path in _named_files(settings, root):
        content = _bytes(path) if key.endswith(("cert_file", "ca_file")) else None
        if content is not None:
            yield certificate_fact(key, path, content[0])


def keys(settings: Settings, root: Path) -> Iterator[KeyFact]:
    """The private keys that the profile names, each beside its certificate."""
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
