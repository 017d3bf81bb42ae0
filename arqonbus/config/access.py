"""Settings of who may connect and what they may do: tokens, certificates of services, roles, limits."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, Field, model_validator

from arqonbus.config.field import Section, section, setting
from arqonbus.config.globs import name_pattern
from arqonbus.config.rooms import Action
from arqonbus.config.units import Count, FilePath, Seconds, Secret, Size, Switch, Text
from arqonbus.config.url import Schemes, Url

Algorithm = Literal["HS256", "RS256", "ES256", "EdDSA"]


class PreviousSecret(Section):
    """The secret that was valid before the last rotation."""

    value: Secret | None = setting(
        None,
        "The old secret.",
        example={"from": "credential", "name": "jwt_previous"},
        secrecy="value",
        reload="hot",
    )
    valid_until: AwareDatetime | None = setting(
        None,
        "Moment from which it is refused, with a time zone.",
        example="2030-01-31T00:00:00Z",
        reload="hot",
    )

    @model_validator(mode="after")
    def _ends(self) -> PreviousSecret:
        if self.value is not None and self.valid_until is None:
            raise ValueError("has a value and no valid_until; say when the old secret ends")
        return self


class PublicKey(Section):
    """One public key that tokens may be signed for: its PEM, or a file that holds it."""

    pem: Text | None = setting(
        None,
        "The key in PEM.",
        example="-----BEGIN PUBLIC KEY-----\n…\n-----END PUBLIC KEY-----",
        reload="hot",
    )
    file: FilePath | None = setting(None, "File with the key in PEM.", example="/etc/arqonbus/jwt.pem")
    key_id: Text | None = setting(None, "The `kid` that tokens of this key carry.", example="2030-01")

    @model_validator(mode="after")
    def _one_place(self) -> PublicKey:
        if (self.pem is None) == (self.file is None):
            raise ValueError("needs exactly one of pem and file")
        return self


class TrustedSigner(Section):
    """A producer whose messages are signed: who, and the public half of the key."""

    tenant: Text = setting(..., "Tenant of the producer's token.", example="shop", reload="hot")
    subject: Text = setting(..., "`sub` of the producer's token.", example="billing", reload="hot")
    pem: Text | None = setting(
        None,
        "The Ed25519 public key in PEM.",
        example="-----BEGIN PUBLIC KEY-----\n…\n-----END PUBLIC KEY-----",
        reload="hot",
    )
    file: FilePath | None = setting(
        None, "File with the key in PEM.", example="/etc/arqonbus/signers/billing.pem", reload="hot"
    )

    @model_validator(mode="after")
    def _one_place(self) -> TrustedSigner:
        if (self.pem is None) == (self.file is None):
            raise ValueError("needs exactly one of pem and file")
        return self


class Jwt(Section):
    """How tokens are verified."""

    algorithms: Annotated[tuple[Algorithm, ...], Field(min_length=1)] = setting(
        ("HS256",), "Signature algorithms that are accepted.", example=["EdDSA"], reload="hot"
    )
    secret: Secret | None = setting(
        None,
        "Shared secret of HS256, at least 32 bytes. In dev one is generated when there is none.",
        example={"from": "credential", "name": "jwt_secret"},
        secrecy="value",
        reload="hot",
    )
    previous_secret: PreviousSecret = section(
        PreviousSecret, "The secret before the last rotation, accepted until valid_until."
    )
    public_keys: tuple[PublicKey, ...] = setting(
        (),
        "Keys of RS256, ES256 and EdDSA; which algorithm a key serves follows from the key.",
        example=[{"file": "/etc/arqonbus/jwt.pem"}],
        reload="hot",
    )
    jwks_url: Annotated[Url, Schemes("http", "https")] | None = setting(
        None,
        "Where further public keys are fetched from.",
        example="https://id.example.org/.well-known/jwks.json",
        reload="hot",
    )
    jwks_ca_file: FilePath | None = setting(
        None,
        "Certificate authority of jwks_url in PEM; without one, those that this machine trusts.",
        example="/etc/arqonbus/tls/id-ca.pem",
        reload="hot",
    )
    jwks_refresh: Annotated[Seconds, Field(ge=10)] = setting(
        600.0, "Time between two fetches of jwks_url.", example="10m", reload="hot"
    )
    jwks_max_stale: Annotated[Seconds, Field(ge=60)] = setting(
        86_400.0,
        "Time for which fetched keys are used while jwks_url cannot be fetched.",
        example="24h",
        reload="hot",
    )
    issuer: Text | None = setting(
        None, "Required `iss` of a token.", example="https://id.example.org", reload="hot"
    )
    audience: Text | None = setting(None, "Required `aud` of a token.", example="arqonbus", reload="hot")
    leeway: Annotated[Seconds, Field(le=300)] = setting(
        5.0, "Difference of clocks that is forgiven.", example="5s", reload="hot"
    )
    max_lifetime: Seconds = setting(
        0.0,
        "Longest time from `iat` to `exp` of a token, both of which it must then have; 0: no limit.",
        example="24h",
        reload="hot",
    )
    skip_validation: Switch = setting(
        False, "Accept tokens without looking at their signature. Refused outside dev.", example=False
    )


class ServiceIdentity(Section):
    """Which service a certificate with this DNS name belongs to."""

    dns: Text = setting(..., "DNS name in the certificate, as it stands there.", example="billing.svc.local")
    tenant: Text = setting(..., "Tenant of the service's token.", example="shop")
    subject: Text = setting(..., "`sub` of the service's token.", example="billing")


class RoleGrant(Section):
    """Actions in the rooms whose names match."""

    room: Annotated[str, AfterValidator(name_pattern)] = setting(
        ..., "Pattern of room names; * stands for any run of characters.", example="orders.*", reload="hot"
    )
    allow: Annotated[tuple[Action, ...], Field(min_length=1)] = setting(
        ..., "What is granted there.", example=["publish", "subscribe"], reload="hot"
    )


class Role(Section):
    """Grants under a name, for the tokens whose claim `roles` says it."""

    name: Text = setting(..., "Name, as tokens say it.", example="dispatcher", reload="hot")
    grants: tuple[RoleGrant, ...] = setting(
        (),
        "What it grants.",
        example=[{"room": "orders.*", "allow": ["publish", "subscribe"]}],
        reload="hot",
    )


class Auth(Section):
    """Who somebody is."""

    jwt: Jwt = section(Jwt, "How tokens are verified.")
    require_exp: Switch = setting(True, "Whether a token must say when it ends.", example=True, reload="hot")
    refresh_window: Seconds = setting(
        60.0,
        "Time before the end of a token in which its connection is warned and may refresh it.",
        example="60s",
        reload="hot",
    )
    signers: tuple[TrustedSigner, ...] = setting(
        (),
        "Whose signatures count in rooms that take signed messages only; a producer may have several keys.",
        example=[{"tenant": "shop", "subject": "billing", "file": "/etc/arqonbus/signers/billing.pem"}],
        reload="hot",
    )
    revoked: FilePath | None = setting(
        None,
        "YAML file of revoked tokens; read again when it changes.",
        example="/etc/arqonbus/revoked.yaml",
        reload="hot",
    )
    service_mtls: Switch = setting(
        False,
        "Whether services must also show a certificate of server.tls.client_ca_file, with the URI "
        "arqonbus://<tenant>/<sub> of their token or a DNS name of service_identities.",
        example=True,
        reload="hot",
    )
    service_identities: tuple[ServiceIdentity, ...] = setting(
        (),
        "Services whose certificates carry a DNS name instead of the URI.",
        example=[{"dns": "billing.svc.local", "tenant": "shop", "subject": "billing"}],
        reload="hot",
    )


class Share(Section):
    """What all connections together of one tenant, identity or address may ask of a node. 0: no limit."""

    connections: Count = setting(0, "Connections at one time.", example=1000, reload="hot")
    connections_per_second: Count = setting(
        0, "New connections per second; five seconds' worth may come at once.", example=20, reload="hot"
    )
    messages_per_second: Count = setting(0, "Envelopes per second.", example=5000, reload="hot")
    bytes_per_second: Size = setting(0, "Bytes per second.", example="16MiB", reload="hot")
    joins_per_second: Count = setting(0, "Joins of rooms per second.", example=200, reload="hot")
    commands: Count = setting(
        0, "Commands that are being run or wait, at one time.", example=500, reload="hot"
    )


class Limits(Section):
    """How much one connection or tenant may ask for. 0 means no limit where that is said."""

    send_queue_bytes: Annotated[Size, Field(ge=4096)] = setting(
        2**20, "Bytes that may wait for one client before it counts as slow.", example="1MiB", reload="hot"
    )
    messages_per_second: Count = setting(
        10_000, "Envelopes per second that a connection may send; 0: no limit.", example=100, reload="hot"
    )
    messages_burst: Count = setting(
        20_000, "Envelopes that a connection may send at once after a pause.", example=200, reload="hot"
    )
    bytes_per_second: Size = setting(
        64 * 2**20, "Bytes per second that a connection may send; 0: no limit.", example="4MiB", reload="hot"
    )
    joins_per_connection: Annotated[Count, Field(ge=1)] = setting(
        1_000, "Rooms that a connection may be in.", example=100, reload="hot"
    )
    bad_frames: Annotated[Count, Field(ge=1)] = setting(
        10, "Unreadable frames after which a connection is closed.", example=10, reload="hot"
    )
    ping_interval: Seconds = setting(
        25.0, "Time between pings; must be shorter than a proxy's idle timeout. 0: no pings.", example="25s"
    )
    ping_timeout: Annotated[Seconds, Field(gt=0)] = setting(
        20.0, "Time in which a ping must be answered.", example="20s"
    )
    idle_timeout: Seconds = setting(
        0.0, "Time without any envelope after which a connection is closed; 0: never.", example="1h"
    )
    clock_skew: Seconds = setting(
        30.0,
        "Difference of a client's clock from which it is warned, as its messages show it; 0: none.",
        example="5s",
        reload="hot",
    )
    commands_per_connection: Annotated[Count, Field(ge=1)] = setting(
        256, "Commands of one connection that wait for their turn.", example=64, reload="hot"
    )
    rooms_per_tenant: Count = setting(
        0,
        "Rooms of one tenant that a node has members in; joining makes a room. 0: no limit.",
        example=10_000,
        reload="hot",
    )
    failed_logins_per_minute: Count = setting(
        30,
        "Refused tokens of one address per minute that are answered at once; the answers to further ones are "
        "held back for up to 4 s each. Valid tokens are not affected. 0: no limit.",
        example=30,
        reload="hot",
    )
    shared: Switch = setting(
        False,
        "Whether the limits of tenant, identity and address hold for all nodes together, not for each.",
        example=True,
        reload="hot",
    )
    tenant: Share = section(Share, "What one tenant may ask of a node.")
    identity: Share = section(Share, "What one tenant and `sub` together may ask of a node.")
    address: Share = section(Share, "What one address of a client may ask of a node.")


__all__ = [
    "Algorithm",
    "Auth",
    "Jwt",
    "Limits",
    "PreviousSecret",
    "PublicKey",
    "Role",
    "RoleGrant",
    "ServiceIdentity",
    "Share",
    "TrustedSigner",
]
