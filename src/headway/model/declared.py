"""The declared system: what `headway.toml` says, typed, frozen and complete.

Field names carry their unit; the alias is the key a user writes. Descriptions and examples here are the source of the
generated reference and of the comments that `headway init` writes. Keys whose feature is not built yet have their room
in `RESERVED`, so that they are refused by name and not as unknown.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from headway.model.units import parse_duration_s, parse_rate_per_s, parse_size_bytes

DurationS = Annotated[float, BeforeValidator(parse_duration_s)]
SizeBytes = Annotated[int, BeforeValidator(parse_size_bytes)]
RatePerS = Annotated[float, BeforeValidator(parse_rate_per_s)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,30}$")]

# Dotted path pattern of a key -> the sentence that refuses it. `*` stands for one name.
RESERVED: dict[str, str] = {
    "caches": "caches are not available yet",
    "fleet": "more than one machine is not available yet",
    "databases.*.shards": "sharded databases are not available yet",
    "databases.*.servers": "databases over several servers are not available yet",
    "databases.*.keys": "sharded databases are not available yet",
    "databases.*.reference": "sharded databases are not available yet",
    "databases.*.migrations": "migrations are not available yet",
    "services.*.at": "settings for single routes are not available yet",
    "services.*.before_deploy": "releases are not available yet",
    "services.*.shared": "releases are not available yet",
    "services.*.criticality": "criticality is not available yet",
    "services.*.overload": "adaptive overload control is not available yet",
    "services.*.cache": "response caching is not available yet",
}


class Declared(BaseModel):
    """What every part of the declaration has in common: frozen, unknown keys refused, read by alias."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)


class Tls(Declared):
    """A certificate for the edge."""

    certificate: str = Field(description="PEM file with the certificate chain, and the key unless `key` names it.")
    key: str | None = Field(None, description="PEM file with the private key, when it is not in `certificate`.")


class Edge(Declared):
    """The front door: one HAProxy on this machine."""

    bind: tuple[str, ...] = Field(
        ("127.0.0.1:8000",),
        min_length=1,
        description="Addresses to listen on, `host:port` or `[ipv6]:port`. With `tls` they speak HTTPS, except those "
        "written `http://host:port` and port 80, which redirect to HTTPS.",
    )
    tls: Tls | None = Field(None, description="Serve HTTPS (HTTP/2 and HTTP/1.1) with this certificate.")
    trusted: tuple[str, ...] = Field(
        (), description="Networks of proxies in front of Headway; from these alone forwarded headers are believed."
    )
    proxy_protocol: bool = Field(False, description="Expect the PROXY protocol from the `trusted` networks.")
    client_rate_per_s: RatePerS | None = Field(
        None, alias="client_rate", description="Requests per second one client address may make; above it: 429."
    )
    access_log: bool = Field(True, description="Write one JSON line a request to `.headway/logs/access.log`.")
    header_timeout_s: DurationS = Field(
        10.0, alias="header_timeout", description="How long a client may take to send a request's headers."
    )
    idle_timeout_s: DurationS = Field(
        60.0, alias="idle_timeout", description="How long an idle keep-alive connection or a silent client is kept."
    )


class Service(Declared):
    """A deployable unit: a web app, or a command without a port."""

    app: str | None = Field(
        None, description="`module:attribute` of an ASGI or WSGI app, or `module:factory()`; told apart by itself."
    )
    command: tuple[str, ...] | None = Field(None, min_length=1, description="A command without a port, instead of `app`.")
    interface: Literal["auto", "asgi", "wsgi"] = Field("auto", description="Only where telling apart fails.")
    routes: tuple[str, ...] = Field(
        (),
        description='Public path prefixes ("/api") or hosts ("api.example.com", "api.example.com/v2"), passed on '
        "unstripped. Without routes the service is private; a single app service gets `/`.",
    )
    static: dict[str, str] = Field(
        default_factory=dict, description="URL prefix -> folder, served without Python by the worker's native server."
    )
    replicas: int | None = Field(
        None,
        ge=0,
        le=1000,
        description="How many replicas, each one process. Default: public services share the cores, others get one.",
    )
    threads: int | None = Field(None, ge=1, le=1024, description="Threads of a replica, WSGI only. Default 8.")
    python: str | None = Field(
        None, description="The app's interpreter. Default: the nearest `.venv`, else the one Headway runs in."
    )
    folder: str = Field(".", description="Working directory and first import path of the app.")
    slo_s: DurationS | None = Field(
        None, alias="slo", description="Time to first byte after which an answer counts as late."
    )
    deadline_s: DurationS = Field(30.0, alias="deadline", description="After this nobody waits for the answer any more.")
    uses: tuple[str, ...] = Field((), description="Names of databases this service needs before it can start.")
    env: dict[str, str] = Field(
        default_factory=dict,
        description="Environment of the app. `{main.url}` is database `main`, `{env.NAME}` this environment, "
        "`{file.PATH}` a file's content; `{{` and `}}` are braces.",
    )
    memory_max_bytes: SizeBytes | None = Field(
        None, alias="memory_max", description="A replica above this resident size is drained and replaced."
    )
    body_max_bytes: SizeBytes = Field(2**30, alias="body_max", description="Largest request body; above it: 413.")
    sticky: bool = Field(False, description="A cookie keeps a client on its replica (in-memory sessions).")
    limit: int | None = Field(None, ge=1, le=100_000, description="Requests a replica may work on at the same time.")
    streams_max: int = Field(
        1000, ge=1, le=100_000, alias="streams_max", description="WebSockets and event streams a replica may hold open."
    )
    health: str | None = Field(
        None, pattern=r"^/", description="A path that must answer 2xx or 3xx before a new replica counts as ready."
    )
    start_timeout_s: DurationS = Field(
        60.0, alias="start_timeout", description="How long import and start-up of a replica may take."
    )
    drain_timeout_s: DurationS = Field(
        30.0, alias="drain_timeout", description="How long a replica may finish its requests before streams are ended."
    )
    hang_timeout_s: DurationS = Field(
        10.0, alias="hang_timeout", description="A replica whose event loop or threads stand still for this long is replaced."
    )


class Database(Declared):
    """One plain PostgreSQL database, embedded or by URL."""

    url: str | None = Field(None, description="An existing PostgreSQL; `{env.NAME}` allowed. Default: an embedded server.")
    schema_file: str | None = Field(
        None, alias="schema", description="SQL file applied once, when the database is first used."
    )


class System(Declared):
    """The whole declaration."""

    name: Name = Field("app", description="Name of the system.")
    edge: Edge = Field(default_factory=lambda: Edge())
    services: dict[Name, Service] = Field(default_factory=dict)
    databases: dict[Name, Database] = Field(default_factory=dict)
