"""The declared system: what `headway.toml` says, typed, frozen and complete.

Field names carry their unit; the alias is the key a user writes. Descriptions and examples (TOML text) here are the
source of the generated reference, of hints, and of the comments that `headway init` writes. Keys whose feature is not
built yet have their room in `RESERVED`, so that they are refused by name and not as unknown.

`System.model_validate(system.model_dump())` gives the same system again: durations, sizes and rates are dumped as text.
"""

from __future__ import annotations

import re
import shlex
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    TypeAdapter,
    WrapValidator,
    model_validator,
)

from headway.model.calls import CALLS_MAX
from headway.model.overload import Criticality
from headway.model.sharding import SHARDS_MAX
from headway.model.units import (
    parse_duration_s,
    parse_rate_per_s,
    parse_size_bytes,
    spell_duration,
    spell_rate,
    spell_size,
)


def _listed(value: object) -> object:
    """One text where a list is expected is a list of one: `routes = "/"`."""
    return (value,) if isinstance(value, str) else value


def _argv(value: object) -> object:
    """A command as one text is split as a shell would split it, without a shell."""
    return shlex.split(value) if isinstance(value, str) else value


def _whole(value: object) -> object:
    """`true` is no number, though Python thinks so."""
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is not a whole number")
    return value


def _texts(value: object) -> object:
    """Numbers in an environment are text there anyway. true/false stay refused: apps disagree on how to spell them."""
    if isinstance(value, dict):
        numbers = (int, float)
        return {k: str(v) if isinstance(v, numbers) and not isinstance(v, bool) else v for k, v in value.items()}
    return value


def _collector(value: object) -> object:
    """A URL without secrets, which status, journal and this file would show."""
    if isinstance(value, str) and not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s?#]*)?", value):
        raise ValueError(
            "is no address of a collector; write it like http://collector:4318, with secrets in the environment "
            "variable OTEL_EXPORTER_OTLP_HEADERS"
        )
    return value


DurationS = Annotated[float, BeforeValidator(parse_duration_s), PlainSerializer(spell_duration, return_type=str)]
SizeBytes = Annotated[int, BeforeValidator(parse_size_bytes), PlainSerializer(spell_size, return_type=str)]
RatePerS = Annotated[float, BeforeValidator(parse_rate_per_s), PlainSerializer(spell_rate, return_type=str)]
CollectorUrl = Annotated[str, BeforeValidator(_collector)]
Count = Annotated[int, BeforeValidator(_whole)]
Texts = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Argv = Annotated[tuple[str, ...], BeforeValidator(_argv)]
Environment = Annotated[dict[str, str], BeforeValidator(_texts)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,30}$")]

# Dotted path pattern of a key -> the sentence that refuses it. `*` stands for one name.
RESERVED: dict[str, str] = {
    "fleet": "more than one machine is not available yet",
    "services.*.before_deploy": "releases are not available yet",
    "services.*.shared": "releases are not available yet",
}


class Declared(BaseModel):
    """What every part of the declaration has in common: frozen, unknown keys refused, read by alias."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)


class Tls(Declared):
    """A certificate for the edge."""

    certificate: str = Field(
        description="PEM file with the certificate chain, and the key unless `key` names it.",
        examples=['"certs/shop.pem"'],
    )
    key: str | None = Field(
        None,
        description="PEM file with the private key, when it is not in `certificate`.",
        examples=['"certs/shop.key"'],
    )


class Edge(Declared):
    """The front door: one HAProxy on this machine."""

    bind: Texts = Field(
        ("127.0.0.1:8000",),
        min_length=1,
        description="Addresses to listen on, `host:port` or `[ipv6]:port`. With `tls` they speak HTTPS, except those "
        "written `http://host:port` and port 80, which redirect to HTTPS.",
        examples=['["127.0.0.1:8000"]'],
    )
    tls: Tls | None = Field(
        None,
        description="Serve HTTPS (HTTP/2 and HTTP/1.1) with this certificate.",
        examples=['{ certificate = "certs/shop.pem" }'],
    )
    trusted: Texts = Field(
        (),
        description="Networks of proxies in front of Headway; from these alone forwarded headers are believed.",
        examples=['["10.0.0.0/8"]'],
    )
    proxy_protocol: bool = Field(
        False, description="Expect the PROXY protocol from the `trusted` networks.", examples=["true"]
    )
    client_rate_per_s: RatePerS | None = Field(
        None,
        alias="client_rate",
        description="Requests per second one client address may make; above it: 429.",
        examples=['"200/s"'],
    )
    access_log: bool = Field(
        True, description="Write one JSON line a request to `.headway/logs/access.log`.", examples=["false"]
    )
    header_timeout_s: DurationS = Field(
        10.0,
        alias="header_timeout",
        description="How long a client may take to send a request's headers.",
        examples=['"10s"'],
    )
    idle_timeout_s: DurationS = Field(
        60.0,
        alias="idle_timeout",
        description="How long an idle keep-alive connection or a silent client is kept.",
        examples=['"60s"'],
    )


class ReplicaRange(Declared):
    """A number of replicas that follows the load, between two bounds."""

    min: Count = Field(ge=1, le=1000, description="Never fewer replicas than this.", examples=["2"])
    max: Count = Field(ge=1, le=1000, description="Never more replicas than this.", examples=["16"])

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min > self.max:
            raise ValueError(
                f"min {self.min} is above max {self.max}; write it like replicas = {{ min = {self.max}, "
                f"max = {self.min} }}"
            )
        return self

    def clamp(self, replicas: int) -> int:
        """The number within the bounds that is nearest."""
        return max(self.min, min(self.max, replicas))


_FIXED_REPLICAS: TypeAdapter[int] = TypeAdapter(Annotated[Count, Field(ge=0, le=1000)])


def _replicas(value: object, _handler: Any) -> Any:
    """A number or a table. Told apart here, so that a mistake in one is not told as a mistake in both."""
    if value is None or isinstance(value, ReplicaRange):
        return value
    return ReplicaRange.model_validate(value) if isinstance(value, dict) else _FIXED_REPLICAS.validate_python(value)


class At(Declared):
    """Routes of a service that differ. They queue by themselves; what is left out is as for the whole service."""

    slo_s: DurationS | None = Field(
        None, alias="slo", description="Time to first byte after which an answer counts as late.", examples=['"5s"']
    )
    deadline_s: DurationS | None = Field(
        None, alias="deadline", description="After this nobody waits for the answer any more.", examples=['"60s"']
    )
    criticality: Criticality | None = Field(
        None, description="Who waits, and who is refused, when there are too many requests.", examples=['"sheddable"']
    )
    cancel: bool | None = Field(
        None, description="Whether work that nobody waits for any more is cancelled.", examples=["true"]
    )


class Responses(Declared):
    """Whole responses to GET, kept in a cache; the path may have places: `/products/{id}`, `/files/{name:path}`."""

    ttl_s: DurationS = Field(
        alias="ttl",
        description="How long a response is fresh, where its own `Cache-Control` or `Expires` does not say.",
        examples=['"30s"'],
    )
    stale_s: DurationS | None = Field(
        None,
        alias="stale",
        description="For so long after that it is still given, while the app is asked once in the background, unless "
        "the response's own `Cache-Control` says otherwise.",
        examples=['"60s"'],
    )
    cache: str | None = Field(
        None,
        description="Where they are kept. Default: the only cache that the service uses, or that is declared.",
        examples=['"hot"'],
    )
    tags: Texts = Field(
        (),
        description="What makes them void, by `cache(name).invalidate(tag)` or `headway cache flush --tag`; with the "
        "places of the path.",
        examples=['["product:{id}"]'],
    )
    query: Texts | None = Field(
        None,
        description="Parameters of the query that count. The app is asked without the others. Default: all count.",
        examples=['["page", "sort"]'],
    )
    vary: Texts = Field(
        (),
        description="Headers of the request by which responses differ, besides those that the app names in `Vary`.",
        examples=['["Accept-Language"]'],
    )
    host: Literal["vary", "ignore"] = Field(
        "vary",
        description='`"ignore"`: the same responses for every host.',
        examples=['"ignore"'],
    )
    cookies: Literal["bypass", "ignore", "vary"] = Field(
        "bypass",
        description='A request with cookies: `"bypass"` asks the app, `"ignore"` takes them out, `"vary"` keeps '
        "responses for each content of the header.",
        examples=['"ignore"'],
    )
    authorization: Literal["bypass", "vary"] = Field(
        "bypass",
        description='A request with `Authorization`: `"bypass"` asks the app, `"vary"` keeps responses for each '
        "content of the header.",
        examples=['"vary"'],
    )
    statuses: tuple[Count, ...] = Field(
        (200,),
        description="Statuses whose responses are kept for `ttl`. Those with another one are kept where the app says "
        "for how long.",
        examples=["[200, 404]"],
    )
    body_max_bytes: SizeBytes = Field(
        2**20,
        alias="body_max",
        description="A larger response is passed on as it comes and not kept.",
        examples=['"1MiB"'],
    )


class Service(Declared):
    """A deployable unit: a web app, or a command without a port."""

    app: str | None = Field(
        None,
        description="`module:attribute` of an ASGI or WSGI app, or `module:factory()`; told apart by itself.",
        examples=['"shop.web:app"'],
    )
    command: Argv | None = Field(
        None,
        min_length=1,
        description="A command without a port, instead of `app`.",
        examples=['["celery", "-A", "shop", "worker"]'],
    )
    interface: Literal["auto", "asgi", "wsgi"] = Field(
        "auto", description="What `app` speaks; needed only where it cannot be told.", examples=['"wsgi"']
    )
    routes: Texts = Field(
        (),
        description='Public path prefixes ("/api") or hosts ("api.example.com", "api.example.com/v2"), passed on '
        "unstripped. Without routes the service is private; a single app service gets `/`.",
        examples=['["/"]'],
    )
    static: dict[str, str] = Field(
        default_factory=dict,
        description="URL prefix -> folder, served without Python by the worker's native server.",
        examples=['{ "/static" = "static/" }'],
    )
    replicas: Annotated[int | ReplicaRange | None, WrapValidator(_replicas)] = Field(
        None,
        description="How many replicas, each one process, at most 1000. Or `{ min = 2, max = 16 }`: a number that "
        "follows the load. Default: public services share the cores, others get one.",
        examples=["2"],
    )
    threads: Count | None = Field(
        None, ge=1, le=1024, description="Threads of a replica, WSGI only. Default 8.", examples=["8"]
    )
    python: str | None = Field(
        None,
        description="The app's interpreter. Default: the nearest `.venv` (or `venv`), else the one Headway runs in.",
        examples=['".venv/bin/python"'],
    )
    folder: str = Field(".", description="Working directory and first import path of the app.", examples=['"src"'])
    slo_s: DurationS | None = Field(
        None, alias="slo", description="Time to first byte after which an answer counts as late.", examples=['"250ms"']
    )
    deadline_s: DurationS = Field(
        30.0, alias="deadline", description="After this nobody waits for the answer any more.", examples=['"30s"']
    )
    criticality: Criticality = Field(
        "critical",
        description="Who waits, and who is refused, when there are too many requests: the least important first.",
        examples=['"sheddable_plus"'],
    )
    cancel: bool = Field(
        False,
        description="Cancel what an ASGI app does for a request when its client has hung up or its deadline has "
        "passed, unless the answer has begun.",
        examples=["true"],
    )
    at: dict[str, At] = Field(
        default_factory=dict,
        description="Path prefixes that differ in `slo`, `deadline`, `criticality` or `cancel`; at most 6. They queue "
        "by themselves, so that a slow route does not hold up the others.",
        examples=['{ "/reports" = { slo = "5s" } }'],
    )
    cache: dict[str, Responses] = Field(
        default_factory=dict,
        description="Paths whose responses are kept, each with its `ttl`: `/products/{id}`.",
        examples=['{ "/products/{id}" = { ttl = "30s" } }'],
    )
    uses: Texts = Field(
        (),
        description="Names of databases and caches this service needs before it can start, and of services that it "
        "calls; those that `env` and `cache` name are added.",
        examples=['["main"]'],
    )
    env: Environment = Field(
        default_factory=dict,
        description="Environment of the app. `{main.url}` is database, cache or service `main`, `{env.NAME}` this "
        "environment, `{file.PATH}` a file's content; `{{` and `}}` are braces.",
        examples=['{ DATABASE_URL = "{main.url}" }'],
    )
    memory_max_bytes: SizeBytes | None = Field(
        None,
        alias="memory_max",
        description="A replica above this resident size is drained and replaced.",
        examples=['"512MiB"'],
    )
    body_max_bytes: SizeBytes = Field(
        2**30, alias="body_max", description="Largest request body; above it: 413.", examples=['"1GiB"']
    )
    sticky: bool = Field(
        False, description="A cookie keeps a client on its replica (in-memory sessions).", examples=["true"]
    )
    limit: Count | None = Field(
        None,
        ge=1,
        le=100_000,
        description="Requests a replica may work on at the same time. Default: found by measuring, and changed with "
        "the app's speed.",
        examples=["40"],
    )
    overload: Literal["adapt", "observe"] = Field(
        "adapt",
        description='What happens when more comes than can be served in time: `"adapt"` refuses the rest early, '
        '`"observe"` refuses nothing and tells what would have been refused.',
        examples=['"observe"'],
    )
    streams_max: Count = Field(
        1000,
        ge=1,
        le=100_000,
        description="WebSockets and event streams a replica may hold open.",
        examples=["1000"],
    )
    calls_max: Count = Field(
        CALLS_MAX,
        ge=1,
        le=4096,
        description="Calls to each service that a replica may have under way at once. With threads, half of them at "
        "most.",
        examples=["64"],
    )
    health: str | None = Field(
        None,
        pattern=r"^/",
        description="A path that must answer 2xx or 3xx before a new replica counts as ready.",
        examples=['"/health"'],
    )
    start_timeout_s: DurationS = Field(
        60.0,
        alias="start_timeout",
        description="How long import and start-up of a replica may take.",
        examples=['"60s"'],
    )
    drain_timeout_s: DurationS = Field(
        30.0,
        alias="drain_timeout",
        description="How long a replica may finish its requests before streams are ended.",
        examples=['"30s"'],
    )
    hang_timeout_s: DurationS = Field(
        10.0,
        alias="hang_timeout",
        description="A replica whose event loop or threads stand still for this long is replaced.",
        examples=['"10s"'],
    )


class Migrations(Declared):
    """Where the migrations of a database are."""

    sql: str | None = Field(
        None,
        description="Folder of SQL files, `0001_what_it_does.sql` and on.",
        examples=['"migrations/"'],
    )
    alembic: str | None = Field(
        None,
        description="The `alembic.ini` of the app, whose Alembic is run in the Python of the service that uses the "
        "database. In a sharded one its revisions also create the tables of new shards.",
        examples=['"alembic.ini"'],
    )
    django: str | None = Field(
        None,
        description="The `manage.py` of a Django project, whose migrations are run in the Python of the service that "
        "uses the database. In a sharded one they also create the tables of new shards; the project's routers say "
        "which.",
        examples=['"manage.py"'],
    )


_EMBEDDED_SERVERS: TypeAdapter[int] = TypeAdapter(Annotated[Count, Field(ge=1, le=64)])
_GIVEN_SERVERS: TypeAdapter[dict[str, str]] = TypeAdapter(
    dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,30}$")], str]
)


def _servers(value: object, _handler: Any) -> Any:
    """A number of embedded ones, or a table of URLs; a mistake in one is not told as a mistake in both."""
    if value is None:
        return value
    return (
        _GIVEN_SERVERS.validate_python(value) if isinstance(value, dict) else _EMBEDDED_SERVERS.validate_python(value)
    )


class Database(Declared):
    """A PostgreSQL database: a plain one, embedded or by URL, or a sharded one over several servers."""

    url: str | None = Field(
        None,
        description="An existing PostgreSQL; `{env.NAME}` and `{file.PATH}` allowed. Default: an embedded server.",
        examples=['"{env.DATABASE_URL}"'],
    )
    schema_file: str | None = Field(
        None,
        alias="schema",
        description="SQL file applied once, when the database is first used.",
        examples=['"schema.sql"'],
    )
    shards: Count | None = Field(
        None,
        ge=1,
        le=SHARDS_MAX,
        description="Split it into so many shards, each a schema of PostgreSQL; `headway db split` doubles them.",
        examples=["64"],
    )
    servers: Annotated[int | dict[str, str] | None, WrapValidator(_servers)] = Field(
        None,
        description="The servers that hold the shards: a number of embedded ones, or a table of URLs by name.",
        examples=["2"],
    )
    keys: dict[str, str] = Field(
        default_factory=dict,
        description="The sharding key of each table: the column by whose value its rows find their shard.",
        examples=['{ orders = "customer_id", order_lines = "customer_id" }'],
    )
    import_from: str | None = Field(
        None,
        description="The plain database that has this one's rows until `headway db import` has brought them into the "
        "shards; the app finds them there until then.",
        examples=['"old"'],
    )
    joins: dict[str, str] = Field(
        default_factory=dict,
        description="How a table without the column of its key, as rows come in by an import or an INSERT, finds it: "
        "by the row of another table, its parent.",
        examples=['{ order_lines = "order_id = orders.id" }'],
    )
    ids: dict[str, str] = Field(
        default_factory=dict,
        description="A column of each table that is filled in with an id which no other shard gives, and which tells "
        "the row's shard; of type bigint.",
        examples=['{ orders = "id" }'],
    )
    reference: Texts = Field(
        (),
        description="Tables without a key that every server holds whole.",
        examples=['["countries"]'],
    )
    migrations: Migrations | None = Field(
        None,
        description="What `headway db migrate` applies, in a sharded database to every shard: SQL files, Alembic's "
        "revisions or those of Django.",
        examples=['{ alembic = "alembic.ini" }'],
    )
    active_max: Count | None = Field(
        None,
        ge=1,
        le=1024,
        description="Transactions at work at once on a server, over all processes; the others wait in order. "
        "Default: twice the cores, four at least.",
        examples=["4"],
    )
    idle_max: Count = Field(
        16,
        ge=1,
        le=1000,
        description="Connections to a server that each process keeps open.",
        examples=["16"],
    )

    @property
    def urls(self) -> dict[str, str]:
        """The URLs it is given by, by their key; empty for an embedded one."""
        if isinstance(self.servers, dict):
            return {f"servers.{name}": url for name, url in self.servers.items()}
        return {"url": self.url} if self.url is not None else {}


class Sentinel(Declared):
    """The watchers that know which Valkey or Redis leads, instead of a `url`."""

    master: str = Field(
        min_length=1, description="What they call the servers that they watch.", examples=['"mymaster"']
    )
    hosts: Texts = Field(
        min_length=1,
        description="Where they are, `host:port`; 26379 without a port.",
        examples=['["10.0.0.1:26379", "10.0.0.2:26379"]'],
    )
    user: str | None = Field(None, description="Who the app is on the server that leads.", examples=['"shop"'])
    password: str | None = Field(
        None,
        description="Its password there; `{env.NAME}` and `{file.PATH}` allowed.",
        examples=['"{file.secrets/valkey}"'],
    )


class Cache(Declared):
    """A cache: an embedded Valkey, or one by URL; in each process of the app a smaller tier lies before it."""

    memory_max_bytes: SizeBytes | None = Field(
        None,
        alias="memory_max",
        description="What the embedded server may hold; above it, what was used least lately goes. Default: 128MiB.",
        examples=['"128MiB"'],
    )
    url: str | None = Field(
        None,
        description="An existing Valkey, or Redis from 6.2: `redis://`, `rediss://` (TLS), `valkey://`, `valkeys://` "
        "or `unix://`; `{env.NAME}` and `{file.PATH}` allowed. Default: an embedded server.",
        examples=['"{env.REDIS_URL}"'],
    )
    sentinel: Sentinel | None = Field(
        None,
        description="Ask these watchers which server leads, instead of a `url`.",
        examples=['{ master = "mymaster", hosts = ["10.0.0.1:26379"] }'],
    )
    near_max_bytes: SizeBytes = Field(
        32 * 2**20,
        alias="near_max",
        description="What the tier in each process of the app may hold.",
        examples=['"32MiB"'],
    )
    timeout_s: DurationS = Field(
        0.1,
        alias="timeout",
        description="Silence of the server after which the app goes on without it.",
        examples=['"100ms"'],
    )

    @property
    def is_embedded(self) -> bool:
        """Whether its server is ours."""
        return self.url is None and self.sentinel is None

    @property
    def texts(self) -> dict[str, str]:
        """What may hold references, by its key."""
        found = {"url": self.url, "sentinel.password": self.sentinel.password if self.sentinel else None}
        return {key: text for key, text in found.items() if text is not None}


class System(Declared):
    """The whole declaration."""

    name: Name = Field("app", description="Name of the system, in messages and in `status`.", examples=['"shop"'])
    traces: bool = Field(
        True,
        description="Keep what requests spend their time on, so that `headway explain REQUEST-ID` tells it: two files "
        "of 16 MiB a replica in `.headway/traces`.",
        examples=["false"],
    )
    otlp: CollectorUrl | None = Field(
        None,
        description="Send them to this OpenTelemetry collector as well, by OTLP over HTTP; so does "
        "`OTEL_EXPORTER_OTLP_ENDPOINT` in Headway's environment. It needs `pip install headway[otlp]`.",
        examples=['"http://collector:4318"'],
    )
    edge: Edge = Field(default_factory=lambda: Edge())
    services: dict[Name, Service] = Field(default_factory=dict)
    databases: dict[Name, Database] = Field(default_factory=dict)
    caches: dict[Name, Cache] = Field(default_factory=dict)
