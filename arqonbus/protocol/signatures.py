"""Ed25519 signatures of messages (RFC 8032): made by the producer, verified at the edge, kept for readers.

What is signed is everything that gives a message its meaning: id, tenant, room, channel, name, content type
and payload, each behind its length, so that no byte can move from one field into the next. The clock, headers
and what the bus adds are not.
"""

from __future__ import annotations

import struct

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from arqonbus.protocol.envelope import Envelope

DOMAIN = b"arqonbus.v1.message\0"


def signed_bytes(envelope: Envelope, tenant: str) -> bytes:
    """The bytes that a signature covers. `tenant`: the producer's, whether or not the message names it."""
    fields = (
        envelope.id,
        tenant,
        envelope.room,
        envelope.channel,
        envelope.name,
        envelope.content_type,
    )
    parts = [*(field.encode() for field in fields), envelope.payload]
    return DOMAIN + b"".join(struct.pack("!I", len(part)) + part for part in parts)


class MessageSigner:
    """Signs what one producer publishes. `pem`: an Ed25519 private key, unencrypted. Raises ValueError."""

    def __init__(self, pem: str) -> None:
        try:
            key = load_pem_private_key(pem.encode(), password=None)
        except (ValueError, TypeError):
            raise ValueError("the signing key is not a private key in unencrypted PEM") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError(
                "the signing key is not an Ed25519 key; make one: openssl genpkey -algorithm ed25519"
            )
        self._key = key

    def sign(self, envelope: Envelope, tenant: str) -> None:
        """Put the signature into the message."""
        envelope.signature = self._key.sign(signed_bytes(envelope, tenant))


def public_key(pem: str, name: str = "the key") -> Ed25519PublicKey:
    """A public key. Raises ValueError with a sentence."""
    try:
        key = load_pem_public_key(pem.encode())
    except ValueError:
        raise ValueError(f"{name} is not a public key in PEM") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError(f"{name} is not an Ed25519 public key")
    return key


def is_signed_by(envelope: Envelope, tenant: str, key: Ed25519PublicKey) -> bool:
    """True if the delivered message was signed with the private half of the key."""
    try:
        key.verify(envelope.signature, signed_bytes(envelope, tenant))
    except InvalidSignature:
        return False
    return True


__all__ = ["MessageSigner", "is_signed_by", "public_key", "signed_bytes"]
