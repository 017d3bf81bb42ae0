"""Access settings: tokens, certificates of services, roles, limits."""

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
    """The shared secret from before the last rotation."""

    value: Secret | None = setting(
        None,
        "The old secret.",
        example={"from": "credential", "name": "jwt_previous"},
        secrecy="value",
        reload="hot",
    )
    valid_until: AwareDatetime | None = setting(
        None,
        "Time from which the old secret is refused, with a time zone.",
        example="2030-01-31T00:00:00Z",
        reload="hot",
    )

    @model_validator(mode="after")
    def _ends(self) -> PreviousSecret:
        if self.value is not None and self.valid_until is None:
            raise ValueError("has a value and no valid_until; set when the old secret expires")
        return self


class PublicKey(Section):
    """A public key that verifies tokens: its PEM, or a file with it."""

    pem: Text | None = setting(
        None,
        "The key in PEM.",
        example="-----BEGIN PUBLIC KEY-----\n…\n-----END PUBLIC KEY-----",
        reload="hot",
    )
    file: FilePath | None = setting(None, "File with the key in PEM.", example="/etc/arqonbus/jwt.pem")
    key_id: Text | None = setting(None, "`kid` in tokens of this key.", example="2030-01")

    @model_validator(mode="after")
    def _one_place(self) -> PublicKey:
        if (self.pem is None) == (self.file is None):
            raise ValueError("needs exactly one of pem and file")
        return self


class TrustedSigner(Section):
    """A producer of signed messages, and its public key."""

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
    """Verification of tokens."""

    algorithms: Annotated[tuple[Algorithm, ...], Field(min_length=1)] = setting(
        ("HS256",), "Accepted signature algorithms.", example=["EdDSA"], reload="hot"
    )
    secret: Secret | None = setting(
        None,
        "Shared secret of HS256, at least 32 bytes. In dev one is generated if none is set.",
        example={"from": "credential", "name": "jwt_secret"},
        secrecy="value",
        reload="hot",
    )
    previous_secret: PreviousSecret = section(
        PreviousSecret, "The secret before the last rotation, accepted until valid_until."
    )
    public_keys: tuple[PublicKey, ...] = setting(
        (),
        "Keys of RS256, ES256 and EdDSA; the key determines its algorithm.",
        example=[{"file": "/etc/arqonbus/jwt.pem"}],
        reload="hot",
    )
    jwks_url: Annotated[Url, Schemes("http", "https")] | None = setting(
        None,
        "URL from which further public keys are fetched.",
        example="https://id.example.org/.well-known/jwks.json",
        reload="hot",
    )
    jwks_ca_file: FilePath | None = setting(
        None,
        "Certificate authority of jwks_url in PEM; default: the system's authorities.",
        example="/etc/arqonbus/tls/id-ca.pem",
        reload="hot",
    )
    jwks_refresh: Annotated[Seconds, Field(ge=10)] = setting(
        600.0, "Interval between fetches of jwks_url.", example="10m", reload="hot"
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
        5.0, "Tolerated clock difference when checking times in a token.", example="5s", reload="hot"
    )
    max_lifetime: Seconds = setting(
        0.0,
        "Longest time from `iat` to `exp` of a token; both are required then. 0: no limit.",
        example="24h",
        reload="hot",
    )
    skip_validation: Switch = setting(
        False, "Accept tokens without verifying their signature. Refused outside dev.", example=False
    )


class ServiceIdentity(Section):
    """The service that a certificate with this DNS name belongs to."""

    dns: Text = setting(..., "DNS name, exactly as in the certificate.", example="billing.svc.local")
    tenant: Text = setting(..., "Tenant of the service's token.", example="shop")
    subject: Text = setting(..., "`sub` of the service's token.", example="billing")


class RoleGrant(Section):
    """Actions allowed in the rooms whose names match."""

    room: Annotated[str, AfterValidator(name_pattern)] = setting(
        ..., "Pattern of room names; * matches any characters.", example="orders.*", reload="hot"
    )
    allow: Annotated[tuple[Action, ...], Field(min_length=1)] = setting(
        ..., "Granted actions.", example=["publish", "subscribe"], reload="hot"
    )


class Role(Section):
    """Named grants, for tokens whose claim `roles` contains the name."""

    name: Text = setting(..., "Name in the claim `roles` of tokens.", example="dispatcher", reload="hot")
    grants: tuple[RoleGrant, ...] = setting(
        (),
        "Grants of the role.",
        example=[{"room": "orders.*", "allow": ["publish", "subscribe"]}],
        reload="hot",
    )


class Auth(Section):
    """Authentication."""

    jwt: Jwt = section(Jwt, "Verification of tokens.")
    require_exp: Switch = setting(True, "Require the claim `exp` in tokens.", example=True, reload="hot")
    refresh_window: Seconds = setting(
        60.0,
        "Time before the expiry of a token when its connection is warned and may refresh it.",
        example="60s",
        reload="hot",
    )
    signers: tuple[TrustedSigner, ...] = setting(
        (),
        "Producers accepted in rooms that require signed messages; one may have several keys.",
        example=[{"tenant": "shop", "subject": "billing", "file": "/etc/arqonbus/signers/billing.pem"}],
        reload="hot",
    )
    revoked: FilePath | None = setting(
        None,
        "YAML file of revoked tokens; reloaded when it changes.",
        example="/etc/arqonbus/revoked.yaml",
        reload="hot",
    )
    service_mtls: Switch = setting(
        False,
        "Require services to also present a certificate of server.tls.client_ca_file, with the URI "
        "arqonbus://<tenant>/<sub> of their token or a DNS name of service_identities.",
        example=True,
        reload="hot",
    )
    service_identities: tuple[ServiceIdentity, ...] = setting(
        (),
        "Services whose certificates have a DNS name instead of the URI.",
        example=[{"dns": "billing.svc.local", "tenant": "shop", "subject": "billing"}],
        reload="hot",
    )


class Share(Section):
    """Limits per node for all connections of one tenant, identity or address together. 0: no limit."""

    connections: Count = setting(0, "Concurrent connections.", example=1000, reload="hot")
    connections_per_second: Count = setting(
        0, "New connections per second; the burst is five times as large.", example=20, reload="hot"
    )
    messages_per_second: Count = setting(0, "Envelopes per second.", example=5000, reload="hot")
    bytes_per_second: Size = setting(0, "Bytes per second.", example="16MiB", reload="hot")
    joins_per_second: Count = setting(0, "Joins of rooms per second.", example=200, reload="hot")
    commands: Count = setting(0, "Commands that are running or queued.", example=500, reload="hot")


class Limits(Section):
    """Limits per connection and per tenant. 0 means no limit only where the setting says so."""

    send_queue_bytes: Annotated[Size, Field(ge=4096)] = setting(
        2**20, "Bytes queued for one client before it counts as slow.", example="1MiB", reload="hot"
    )
    messages_per_second: Count = setting(
        10_000, "Envelopes per second from one connection; 0: no limit.", example=100, reload="hot"
    )
    messages_burst: Count = setting(
        20_000, "Burst of envelopes from one connection.", example=200, reload="hot"
    )
    bytes_per_second: Size = setting(
        64 * 2**20, "Bytes per second from one connection; 0: no limit.", example="4MiB", reload="hot"
    )
    joins_per_connection: Annotated[Count, Field(ge=1)] = setting(
        1_000, "Rooms that one connection may join.", example=100, reload="hot"
    )
    bad_frames: Annotated[Count, Field(ge=1)] = setting(
        10, "Number of invalid frames after which a connection is closed.", example=10, reload="hot"
    )
    ping_interval: Seconds = setting(
        25.0, "Interval of pings; must be shorter than a proxy's idle timeout. 0: no pings.", example="25s"
    )
    ping_timeout: Annotated[Seconds, Field(gt=0)] = setting(
        20.0, "Time within which a ping must be answered.", example="20s"
    )
    idle_timeout: Seconds = setting(
        0.0, "Time without an envelope after which a connection is closed; 0: never.", example="1h"
    )
    clock_skew: Seconds = setting(
        30.0,
        "Warn clients whose clock, by their messages, is off by more than this; 0 disables the warning.",
        example="5s",
        reload="hot",
    )
    commands_per_connection: Annotated[Count, Field(ge=1)] = setting(
        256, "Queued commands per connection.", example=64, reload="hot"
    )
    rooms_per_tenant: Count = setting(
        0,
        "Rooms of one tenant with members on a node; joining creates a room. 0: no limit.",
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
        "Apply the limits per tenant, identity and address to all nodes together, not to each node.",
        example=True,
        reload="hot",
    )
    tenant: Share = section(Share, "Limits per tenant.")
    identity: Share = section(Share, "Limits per identity (tenant and `sub`).")
    address: Share = section(Share, "Limits per client address.")


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
