"""Whose signatures count in rooms that take signed messages only. Reads key files when it is made."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from arqonbus.config.access import TrustedSigner
from arqonbus.config.regular_file import NotRegular, read_regular
from arqonbus.protocol.envelope import Envelope
from arqonbus.protocol.errors import Invalid
from arqonbus.protocol.signatures import is_signed_by, public_key

MAX_PEM = 4096


class SignatureBook:
    """Whose signatures are good: the keys of a profile. Raises ValueError for one that cannot be used."""

    def __init__(self, signers: Sequence[TrustedSigner]) -> None:
        self._keys: dict[tuple[str, str], list[Ed25519PublicKey]] = {}
        for number, signer in enumerate(signers):
            key = public_key(_pem(signer, number), f"auth.signers[{number}]")
            self._keys.setdefault((signer.tenant, signer.subject), []).append(key)

    def check(self, envelope: Envelope, tenant: str, subject: str) -> None:
        """Raises Invalid unless the message carries a signature of this producer, by a key of theirs."""
        if not envelope.signature:
            raise Invalid("signature", "this room takes signed messages only, and there is no signature")
        keys = self._keys.get((tenant, subject))
        if not keys:
            raise Invalid(
                "signature", "this bus knows no key of yours; add one to auth.signers of the profile"
            )
        if not any(is_signed_by(envelope, tenant, key) for key in keys):
            raise Invalid("signature", "the signature is not yours over this message")


def _pem(signer: TrustedSigner, number: int) -> str:
    if signer.file is None:
        return signer.pem or ""
    try:
        return read_regular(signer.file, MAX_PEM, follow_links=True).raw.decode()
    except (OSError, NotRegular, UnicodeDecodeError):
        raise ValueError(f"auth.signers[{number}] names a file that cannot be read as PEM") from None


__all__ = ["SignatureBook"]
