"""Every mistake a declaration can hold: told with its path, in one sentence, with a hint, and all at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from headway.declaration.load import load, report
from headway.errors import DeclarationError

HERE = Path(__file__).parent
WEB = '[services.web]\napp = "shop:app"\n'
HOT = WEB + "[caches.hot]\n"
SHARDED = WEB + '[databases.a]\nshards = 4\nkeys = { o = "k" }\n'
STOCK = '[services.stock]\napp = "s:s"\n'
AT = '[services.web.at."/x"]\n'
KEPT = WEB + '[services.web.cache."/p/{id}"]\nttl = "30s"\n'
OF_KEPT = 'services.web.cache."/p/{id}"'


def test_ten_mistakes_at_once_read_exactly_like_this(folder) -> None:
    folder.write("headway.toml", (HERE / "ten_mistakes.toml").read_text())
    with pytest.raises(DeclarationError) as caught:
        load(None, cwd=folder.path, environment={})
    assert report(caught.value) + "\n" == (HERE / "ten_mistakes.txt").read_text()


# (declaration, path of the only problem, part of its message, part of its hint)
CASES = [
    # names and tables
    ("system = 3\n" + WEB, "system", "must be a table, not a number", "[system]"),
    ("[system]\nname = 3\n" + WEB, "system.name", "must be text in quotes, not a number", 'name = "shop"'),
    ("[system]\ncolour = 3\n" + WEB, "system.colour", "unknown key", "keys here: name"),
    ('name = "shop"\n' + WEB, "name", "unknown key", "belongs under [system]"),
    ('bind = "x:1"\n' + WEB, "bind", "unknown key", "belongs under [edge]"),
    ('app = "shop:app"\n' + WEB, "app", "unknown key", "belongs under [services.NAME]"),
    ('[service.web]\napp = "a:b"\n' + WEB, "service", "unknown key", "did you mean `services`?"),
    ('[services.Web]\napp = "a:b"\n' + WEB, "services.Web", '"Web" cannot be a name here', "small letters"),
    ('[services]\nweb = "a:b"\n', "services.web", "must be a table, not text", "[services.web]"),
    ("services = 1\n", "services", "must be a table, not a number", ""),
    ("", "services", "no service is declared", "headway init"),
    # keys
    (WEB + 'slo_s = "1s"\n', "services.web.slo_s", "unknown key", "did you mean `slo`?"),
    (WEB + "workers = 2\n", "services.web.workers", "unknown key", "replicas = 2"),
    (WEB + "port = 80\n", "services.web.port", "unknown key", "in [edge]"),
    (WEB + "drain-timeout = 3\n", "services.web.drain-timeout", "unknown key", "did you mean `drain_timeout`?"),
    (WEB + '[databases.main]\npassword = "x"\n', "databases.main.password", "unknown key", "keys here: url, schema"),
    # types
    (WEB + "replicas = -1\n", "services.web.replicas", "must be at least 0, not -1", "replicas = 2"),
    (WEB + "replicas = 10000\n", "services.web.replicas", "must be at most 1000, not 10000", "replicas = 2"),
    (WEB + "replicas = 2.5\n", "services.web.replicas", "must be a whole number, not 2.5", "replicas = 2"),
    (WEB + "replicas = true\n", "services.web.replicas", "true is not a whole number", "replicas = 2"),
    (WEB + "replicas = []\n", "services.web.replicas", "must be a whole number, not a list", "replicas = 2"),
    (WEB + 'sticky = "maybe"\n', "services.web.sticky", 'must be true or false, not "maybe"', "sticky = true"),
    (WEB + "sticky = []\n", "services.web.sticky", "must be true or false, not a list", "sticky = true"),
    (WEB + "routes = 3\n", "services.web.routes", "must be a list, not a number", 'routes = ["/"]'),
    (WEB + "routes = [3]\n", "services.web.routes[0]", "must be text in quotes", 'routes = ["/"]'),
    (WEB + "env = []\n", "services.web.env", "must be a table, not a list", "env = {"),
    (WEB + "env = { DEBUG = true }\n", "services.web.env.DEBUG", "true and false are spelled", 'DEBUG = "1"'),
    (WEB + 'static = { "/s" = 3 }\n', 'services.web.static."/s"', "must be the name of a folder", "static = {"),
    (WEB + 'interface = "cgi"\n', "services.web.interface", 'must be "auto", "asgi" or "wsgi", not "cgi"', "interface"),
    (WEB + 'health = "ok"\n', "services.web.health", '"ok" must begin with "/"', 'health = "/health"'),
    (WEB + "slo = 1979-05-27\n", "services.web.slo", "this value is not a duration", "250ms"),
    (WEB + "memory_max = 512\n", "services.web.memory_max", "512 is not a size", '"512MiB"'),
    (WEB + 'memory_max = "lots"\n', "services.web.memory_max", '"lots" is not a size', '"512MiB"'),
    ("[edge]\nclient_rate = 200\n" + WEB, "edge.client_rate", "200 is not a rate", '"200/s"'),
    ("[edge]\nbind = []\n" + WEB, "edge.bind", "must not be empty", 'bind = ["127.0.0.1:8000"]'),
    ("[edge.tls]\n" + WEB, "edge.tls.certificate", "is missing", 'certificate = "certs/shop.pem"'),
    # not available yet
    (WEB + "[fleet]\n", "fleet", "more than one machine is not available yet", "take it out"),
    # caches
    (HOT + 'url = "redis://h"\nmemory_max = "64MiB"\n', "caches.hot.memory_max", "bounds an embedded", "maxmemory"),
    (HOT + 'url = "memcached://h"\n', "caches.hot.url", "is not the URL of a Valkey or Redis", "redis://host"),
    (HOT + 'url = "redis://"\n', "caches.hot.url", "names no host", "redis://host:6379/0"),
    (HOT + 'url = "redis://h:port"\n', "caches.hot.url", "its host or port cannot be read", "redis://"),
    (HOT + 'url = "redis://h/main"\n', "caches.hot.url", "by something else than a number", "/0"),
    (HOT + 'url = "redis://h/0?ssl=1"\n', "caches.hot.url", "which nobody would read", "take them out"),
    (HOT + 'url = "unix://valkey.sock"\n', "caches.hot.url", "names no socket", "unix:///run/valkey.sock"),
    (HOT + 'url = "{env.NOPE}"\n', "caches.hot.url", "variable NOPE is not set", "export"),
    (HOT + 'url = "{file.nope}"\n', "caches.hot.url", "file nope is missing", "0600"),
    (HOT + 'url = "{main.url}"\n', "caches.hot.url", "{main.url} cannot stand here", "{env.NAME}"),
    (HOT + 'memory_max = "1MiB"\n', "caches.hot.memory_max", "1 MiB is too little: 8 MiB", '"128MiB"'),
    (HOT + 'near_max = "1KiB"\n', "caches.hot.near_max", "is too little", '"32MiB"'),
    (HOT + 'timeout = "1m"\n', "caches.hot.timeout", "is not between 5 ms and 10 s", '"100ms"'),
    (HOT + "sentinel = { hosts = ['h'] }\n", "caches.hot.sentinel.master", "is missing", "mymaster"),
    (HOT + "sentinel = { master = 'm', hosts = [] }\n", "caches.hot.sentinel.hosts", "must not be empty", "26379"),
    (
        HOT + "sentinel = { master = 'm', hosts = ['h:x'] }\n",
        "caches.hot.sentinel.hosts[0]",
        "is not host:port",
        "26379",
    ),
    (
        HOT + "sentinel = { master = 'm', hosts = ['h'], user = 'u' }\n",
        "caches.hot.sentinel.user",
        "has no pass",
        "env.",
    ),
    (
        HOT + "url = 'redis://h'\nsentinel = { master = 'm', hosts = ['h'] }\n",
        "caches.hot.sentinel",
        "says where the server is, and so does url",
        "keep one",
    ),
    (HOT + "[databases.hot]\n", "caches.hot", "[databases.hot] has the same name", "[caches.hot-cache]"),
    (WEB + "[caches.web]\n", "caches.web", "[services.web] has the same name", "otherwise"),
    (WEB + "[caches.env]\n", "caches.env", "a cache cannot be called env", "something else"),
    (WEB + 'env = { R = "{hot.host}" }\n[caches.hot]\n', "services.web.env.R", 'a cache has no "host"', "url"),
    (
        WEB + "env = { R = \"{hot.url}\" }\n[caches.hot]\nsentinel = { master = 'm', hosts = ['h'] }\n",
        "services.web.env.R",
        "found by Sentinel",
        "uses",
    ),
    (WEB + "[databases.a]\nshards = 4\n", "databases.a.keys", "needs the key of each table", "customer_id"),
    (WEB + '[databases.a]\nkeys = { o = "k" }\n', "databases.a.keys", "belongs to a sharded database", "shards = 64"),
    (WEB + '[databases.a]\nreference = ["o"]\n', "databases.a.reference", "belongs to a sharded", "shards = 64"),
    (WEB + "[databases.a]\nservers = 2\n", "databases.a.servers", "belongs to a sharded database", "shards = 64"),
    (SHARDED + 'url = "postgresql://h/d"\n', "databases.a.url", "is for a plain database", "servers ="),
    (SHARDED + "servers = {}\n", "databases.a.servers", "names no server", "servers = 2"),
    (SHARDED + "servers = 0\n", "databases.a.servers", "at least 1", "servers"),
    (SHARDED + 'servers = { a = "mysql://x" }\n', "databases.a.servers.a", "is not a PostgreSQL URL", "postgresql"),
    (SHARDED + 'servers = { a = "{env.NOPE}" }\n', "databases.a.servers.a", "variable NOPE is not set", "export"),
    (
        SHARDED + 'servers = { a = "postgresql://x@h/d", b = "postgresql://y@h:5432/d" }\n',
        "databases.a.servers.b",
        "is the same database as a",
        "of its own",
    ),
    (
        SHARDED + 'servers = { a-1 = "postgresql://h/d" }\n',
        "databases.a.servers.a-1",
        "cannot be a name",
        "digits and _",
    ),
    (WEB + "[databases.a]\nshards = 4\nkeys = { o = 1 }\n", "databases.a.keys.o", "must be text", ""),
    (SHARDED + 'ids = { p = "id" }\n', "databases.a.ids.p", "p is not in keys", "spread by a key"),
    (SHARDED + 'ids = { o = "k" }\n', "databases.a.ids.o", "k is the sharding key", "uuid7"),
    (SHARDED + 'ids = { o = "I d" }\n', "databases.a.ids.o", "not the name of a column", "as PostgreSQL stores it"),
    (WEB + '[databases.a]\nids = { o = "k" }\n', "databases.a.ids", "belongs to a sharded database", "shards = 64"),
    (SHARDED + "migrations = {}\n", "databases.a.migrations", "does not say where they are", "alembic.ini"),
    (
        SHARDED + 'migrations = { sql = "." , alembic = "x.ini" }\n',
        "databases.a.migrations",
        "names sql and alembic",
        "one",
    ),
    (SHARDED + 'migrations = { sql = "nix" }\n', "databases.a.migrations.sql", "no folder nix", "headway.toml"),
    (
        SHARDED + 'migrations = { alembic = "x.ini" }\n',
        "databases.a.migrations.alembic",
        "file x.ini is missing",
        "init",
    ),
    (
        SHARDED + 'migrations = { django = "manage.py" }\n',
        "databases.a.migrations.django",
        "file manage.py is missing",
        "Django project",
    ),
    (
        SHARDED + 'migrations = { django = "manage.py", alembic = "x.ini" }\n',
        "databases.a.migrations",
        "names alembic and django",
        "one",
    ),
    (SHARDED + 'migrations = "m"\n', "databases.a.migrations", "must be a table, not text", ""),
    (SHARDED + 'reference = ["o"]\n', "databases.a.reference[0]", "o is in keys too", "whole on every server"),
    (SHARDED + 'reference = ["x.y"]\n', "databases.a.reference[0]", "is not the name of a table", "schema"),
    (
        WEB + '[databases.a]\nshards = 4\nkeys = { "Orders" = "k" }\n',
        "databases.a.keys.Orders",
        "is not the name of a table",
        "small letters",
    ),
    (WEB + "[databases.a]\nshards = 5000\n", "databases.a.shards", "at most 4096", "64"),
    (WEB + 'before_deploy = "x"\n', "services.web.before_deploy", "releases are not available yet", ""),
    (WEB + 'uses = ["mail"]\n[services.mail]\ncommand = "m"\n', "services.web.uses[0]", "no port", "take it out"),
    (WEB + 'uses = ["web"]\n', "services.web.uses[0]", '"web" is the service itself', "call the function"),
    (WEB + 'uses = ["stok"]\n' + STOCK, "services.web.uses[0]", "cache or service is called", 'did you mean "stock"?'),
    (WEB + STOCK + "[databases.stock]\n", "databases.stock", "[services.stock] has the same name", "otherwise"),
    (WEB + 'env = { U = "{stock.host}" }\n' + STOCK, "services.web.env.U", 'a service has no "host"', "url"),
    (WEB + 'env = { U = "{stok.url}" }\n' + STOCK, "services.web.env.U", "cache or service is called", '"stock"'),
    (WEB + 'env = { U = "{m.url}" }\n[services.m]\ncommand = "m"\n', "services.web.env.U", "is a command", "take it"),
    # responses
    (KEPT, f"{OF_KEPT}.cache", "there is no cache to keep them in", "[caches.hot]"),
    (KEPT + "[caches.a]\n[caches.b]\n", f"{OF_KEPT}.cache", "there are several caches: a, b", 'cache = "a"'),
    (KEPT + 'cache = "hut"\n[caches.hot]\n', f"{OF_KEPT}.cache", 'no cache is called "hut"', 'did you mean "hot"?'),
    (WEB + '[services.web.cache."/p"]\n[caches.hot]\n', 'services.web.cache."/p".ttl', "is missing", 'ttl = "30s"'),
    (KEPT.replace("30s", "30") + "[caches.hot]\n", f"{OF_KEPT}.ttl", '"30" is not a duration', '"30s"'),
    (KEPT.replace("30s", "50d") + "[caches.hot]\n", f"{OF_KEPT}.ttl", "is longer than", 'ttl = "30s"'),
    (KEPT + "statuses = [200, 503]\n[caches.hot]\n", f"{OF_KEPT}.statuses[1]", "503 is never kept", "404"),
    (WEB + 'cancel = true\ninterface = "wsgi"\n', "services.web.cancel", "is for ASGI apps", "take out cancel"),
    ('[services.a]\ncommand = "m"\ncancel = true\n', "services.a.cancel", "no meaning for a command", "take it out"),
    (KEPT + "statuses = 200\n[caches.hot]\n", f"{OF_KEPT}.statuses", "must be a list", "[200, 404]"),
    (KEPT + 'body_max = "1GiB"\n[caches.hot]\n', f"{OF_KEPT}.body_max", "8 MiB at most", "as it comes"),
    (KEPT + 'tags = ["p:{nr}"]\n[caches.hot]\n', f"{OF_KEPT}.tags[0]", "has no {nr}", "its places are: {id}"),
    (KEPT + 'tags = ["p:{id"]\n[caches.hot]\n', f"{OF_KEPT}.tags[0]", "brace without its other", "product:{id}"),
    (KEPT + 'vary = ["cookie"]\n[caches.hot]\n', f"{OF_KEPT}.vary[0]", "has a key of its own", 'cookies = "vary"'),
    (KEPT + 'vary = ["a b"]\n[caches.hot]\n', f"{OF_KEPT}.vary[0]", "not the name of a header", "Accept-Language"),
    (
        KEPT + "cookies = true\n[caches.hot]\n",
        f"{OF_KEPT}.cookies",
        'must be "bypass", "ignore" or "vary"',
        "cookies =",
    ),
    (KEPT + "tll = 3\n[caches.hot]\n", f"{OF_KEPT}.tll", "unknown key", "did you mean `ttl`?"),
    (
        KEPT + '[services.web.cache."/p/{nr}"]\nttl = "1s"\n[caches.hot]\n',
        'services.web.cache."/p/{nr}"',
        'stands for the same paths as "/p/{id}"',
        "keep one",
    ),
    (
        KEPT.replace("/p/{id}", "p") + "[caches.hot]\n",
        "services.web.cache.p",
        'must begin with "/"',
        "without a host",
    ),
    (
        '[services.a]\ncommand = "x"\ncache = { "/p" = { ttl = "1s" } }\n[caches.hot]\n',
        "services.a.cache",
        "no meaning for a command",
        "take it out",
    ),
    # what it runs
    ("[services.web]\n", "services.web.app", "needs an app or a command", 'app = "shop.web:app"'),
    (WEB + 'command = "celery"\n', "services.web.command", "not both", "two services"),
    ("[services.a]\ncommand = []\n", "services.a.command", "must not be empty", "celery"),
    ('[services.a]\ncommand = "x \'"\n', "services.a.command", "No closing quotation", "celery"),
    ('[services.a]\ncommand = [" "]\n', "services.a.command", "names no program", "celery"),
    ('[services.a]\ncommand = "x"\nroutes = ["/"]\n', "services.a.routes", "no meaning for a command", "take it out"),
    ('[services.a]\ncommand = "x"\nsticky = true\n', "services.a.sticky", "no meaning for a command", "take it out"),
    ('[services.a]\ncommand = "x"\nthreads = 3\n', "services.a.threads", "no meaning for a command", "take it out"),
    ('[services.a]\ncommand = "x"\nhealth = "/"\n', "services.a.health", "no meaning for a command", "take it out"),
    (WEB + 'interface = "asgi"\nthreads = 3\n', "services.web.threads", "is for WSGI apps", "take out"),
    ('[services.web]\napp = "shop"\n', "services.web.app", "names no attribute", '"shop:app"'),
    ('[services.web]\napp = "shop/web.py:app"\n', "services.web.app", "is a file, not a module", '"shop.web:app"'),
    ('[services.web]\napp = "shop:make(1)"\n', "services.web.app", "factory with arguments", "create_app()"),
    ('[services.web]\napp = "shop:1app"\n', "services.web.app", "is not module:attribute", "shop.web:app"),
    ('[services.web]\napp = ":app"\n', "services.web.app", "is not module:attribute", "shop.web:app"),
    # routes
    (WEB + 'routes = [""]\n', "services.web.routes[0]", "must not be empty", '"/"'),
    (WEB + 'routes = ["https://a.de/x"]\n', "services.web.routes[0]", "is a URL", '"a.de/x"'),
    (WEB + 'routes = ["/a?b=1"]\n', "services.web.routes[0]", "more than a path", '"/a"'),
    (WEB + 'routes = ["/a/{id}"]\n', "services.web.routes[0]", "is a pattern", '"/a" already'),
    (WEB + 'routes = ["*.example.com"]\n', "services.web.routes[0]", "is a pattern", "every host"),
    (WEB + 'routes = ["a.de:8000/x"]\n', "services.web.routes[0]", "names a port", '"a.de/x"'),
    (WEB + 'routes = ["münchen.de"]\n', "services.web.routes[0]", "as it travels", "xn--mnchen-3ya.de"),
    (WEB + 'routes = ["/café"]\n', "services.web.routes[0]", "percent-encoded", "%C3%A9"),
    (WEB + 'routes = ["/a b"]\n', "services.web.routes[0]", "characters that no path has", '"/api"'),
    (WEB + 'routes = ["/a/../b"]\n', "services.web.routes[0]", "dotted segment", '"/api"'),
    (WEB + 'routes = ["-a-.de"]\n', "services.web.routes[0]", "neither a path nor a host", "api.example.com"),
    (
        WEB + 'routes = ["A.de/x/"]\n[services.b]\napp = "b:b"\nroutes = ["a.de/x"]\n',
        "services.b.routes[0]",
        '"a.de/x" belongs to service web already',
        "one service",
    ),
    (WEB + 'static = { "/" = "." }\n', 'services.web.static."/"', "would hide the app", '"/static"'),
    (WEB + 'static = { "s" = "." }\n', "services.web.static.s", 'begins with "/"', '"/s"'),
    # the edge
    ('[edge]\nbind = "a:0"\n' + WEB, "edge.bind[0]", "port 0 does not exist", "1 to 65535"),
    ('[edge]\nbind = ":8000"\n' + WEB, "edge.bind[0]", "names no host", '"127.0.0.1:8000"'),
    ('[edge]\nbind = "localhost"\n' + WEB, "edge.bind[0]", "has no port", '"localhost:8000"'),
    ('[edge]\nbind = "::1:8000"\n' + WEB, "edge.bind[0]", "needs brackets", '"[::1]:8000"'),
    ('[edge]\nbind = "[::1]"\n' + WEB, "edge.bind[0]", "has no port", '"[::1]:8000"'),
    ('[edge]\nbind = "[::g]:80"\n' + WEB, "edge.bind[0]", "not an IPv6 address", '"[::1]:80"'),
    ('[edge]\nbind = "1.2.3:80"\n' + WEB, "edge.bind[0]", "not an IPv4 address", '"127.0.0.1:80"'),
    ('[edge]\nbind = "/run/x.sock"\n' + WEB, "edge.bind[0]", "unix sockets", "127.0.0.1:8000"),
    ('[edge]\nbind = ["localhost:1", "LOCALHOST:1"]\n' + WEB, "edge.bind[1]", "are the same address", "keep one"),
    ('[edge]\nbind = ["0.0.0.0:80", "10.0.0.1:80"]\n' + WEB, "edge.bind[1]", "are the same address", "keep one"),
    ('[edge]\nbind = "https://a.de:443"\n' + WEB, "edge.bind[0]", "needs a certificate", "tls = {"),
    ('[edge]\ntrusted = "proxy"\n' + WEB, "edge.trusted[0]", '"proxy" is not a network', "10.0.0.0/8"),
    ("[edge]\nproxy_protocol = true\n" + WEB, "edge.proxy_protocol", "from whom it is believed", "trusted"),
    ('[edge]\nidle_timeout = "100000d"\n' + WEB, "edge.idle_timeout", "longer than a day", "30s"),
    # references
    (
        WEB + 'uses = ["main"]\n',
        "services.web.uses[0]",
        'no database, cache or service is called "main"',
        "add [databases.main]",
    ),
    (
        WEB + 'env = { U = "{main.url}" }\n',
        "services.web.env.U",
        'no database, cache or service is called "main"',
        "[databases.main]",
    ),
    (
        WEB + 'env = { U = "{mian.url}" }\n[databases.main]\n',
        "services.web.env.U",
        'no database, cache or service is called "mian"',
        'did you mean "main"?',
    ),
    (WEB + 'env = { U = "{main.uri}" }\n[databases.main]\n', "services.web.env.U", 'has no "uri"', "url, host, port"),
    (WEB + 'env = { U = "{web.url}" }\n', "services.web.env.U", "is the service itself", "call the function"),
    (WEB + 'env = { U = "{main}" }\n', "services.web.env.U", "{main} is not a reference", "{main.url}"),
    (WEB + 'env = { U = "a { b" }\n', "services.web.env.U", "single brace", "{{"),
    (WEB + "env = { U = '{\"a\": 1}' }\n", "services.web.env.U", "braces that are not a reference", "{{ }}"),
    (WEB + 'env = { U = "{env.NOPE}" }\n', "services.web.env.U", "variable NOPE is not set", "export NOPE="),
    (WEB + 'env = { U = "{file.s/x}" }\n', "services.web.env.U", "file s/x is missing", "0600"),
    (WEB + 'env = { "A=B" = "1" }\n', 'services.web.env."A=B"', "cannot be an environment variable", "letters"),
    (WEB + 'env = { A = "a\\u0000b" }\n', "services.web.env.A", "cannot be an environment variable", "zero byte"),
    (WEB + "[databases.env]\n", "databases.env", "cannot be called env", "{env."),
    (WEB + '[databases.a]\nurl = "mysql://x"\n', "databases.a.url", "is not a PostgreSQL URL", "postgresql://"),
    (WEB + '[databases.a]\nurl = "postgresql://h"\n', "databases.a.url", "names no database", "postgresql://"),
    (WEB + '[databases.a]\nurl = "postgresql://h:x/d"\n', "databases.a.url", "cannot be read", "postgresql://"),
    (WEB + '[databases.a]\nurl = "postgresql+psycopg://h/d"\n', "databases.a.url", "names the driver psycopg", "env"),
    (WEB + '[databases.a]\nurl = "{env.NOPE}"\n', "databases.a.url", "variable NOPE is not set", "export"),
    (WEB + '[databases.a]\nurl = "{b.url}"\n', "databases.a.url", "{b.url} cannot stand here", "{env.NAME}"),
    (WEB + '[databases.a]\nurl = "{"\n', "databases.a.url", "single brace", "{{"),
    (WEB + '[databases.a]\nurl = "{file.s}"\n', "databases.a.url", "file s is missing", "0600"),
    # a range of replicas
    (WEB + "replicas = { min = 4, max = 2 }\n", "services.web.replicas", "min 4 is above max 2", "min = 2, max = 4"),
    (WEB + "replicas = { min = 0, max = 2 }\n", "services.web.replicas.min", "must be at least 1, not 0", "min = 2"),
    (WEB + "replicas = { min = 1, max = 2000 }\n", "services.web.replicas.max", "must be at most 1000", "max = 16"),
    (WEB + "replicas = { min = 1 }\n", "services.web.replicas.max", "is missing", "max = 16"),
    (WEB + 'replicas = { min = "a", max = 2 }\n', "services.web.replicas.min", "must be a whole number", "min = 2"),
    (WEB + "replicas = { min = true, max = 2 }\n", "services.web.replicas.min", "true is not a whole number", "min"),
    (WEB + "replicas = { min = 1, max = 2, now = 2 }\n", "services.web.replicas.now", "unknown key", "min, max"),
    (WEB + "min_replicas = 2\n", "services.web.min_replicas", "unknown key", "did you mean `replicas`?"),
    # routes that differ
    (WEB + "at = 3\n", "services.web.at", "must be a table, not a number", "at = {"),
    (WEB + 'at = { "/x" = 3 }\n', 'services.web.at."/x"', "must be a table, not a number", '[services.web.at."/x"]'),
    (WEB + AT + "weight = 3\n", 'services.web.at."/x".weight', "unknown key", "slo, deadline, criticality"),
    (WEB + AT + "slo = 5\n", 'services.web.at."/x".slo', "5 is not a duration", '"5s"'),
    (WEB + AT + 'criticality = "high"\n', 'services.web.at."/x".criticality', 'must be "critical_plus",', "sheddable"),
    (WEB + '[services.web.at.x]\nslo = "5s"\n', "services.web.at.x", 'must begin with "/"', "write the path alone"),
    (WEB + '[services.web.at."/a b"]\n', 'services.web.at."/a b"', "characters that no path has", ""),
    (WEB + '[services.web.at."a.de/x"]\n', 'services.web.at."a.de/x"', 'must begin with "/"', '"/x"'),
    (WEB + '[services.web.at."/"]\n', 'services.web.at."/"', "is a whole route", "[services.web] itself"),
    (WEB + AT + '[services.web.at."/x/"]\n', 'services.web.at."/x/"', 'means the same as "/x"', "keep one"),
    (WEB + 'routes = ["/a", "b.de/c"]\n' + AT, 'services.web.at."/x"', 'outside the routes of web: "/a", "b.de/c"', ""),
    (WEB + 'routes = ["a.de/x"]\n' + AT, 'services.web.at."/x"', "is a whole route of the service", "itself"),
    (
        WEB + '[services.b]\napp = "b:b"\nroutes = ["/"]\n' + AT,
        "services.web.at",
        "nobody calls it",
        'routes = ["/"]',
    ),
    (
        WEB + "".join(f'[services.web.at."/{letter}"]\n' for letter in "abcdefg"),
        "services.web.at",
        "has 7 routes, and at most 6",
        "differ most",
    ),
    ('[services.a]\ncommand = "x"\nat = { "/" = {} }\n', "services.a.at", "no meaning for a command", "take it out"),
    ('[services.a]\ncommand = "x"\noverload = "adapt"\n', "services.a.overload", "no meaning for a command", ""),
    (WEB + AT + 'slo = "40s"\n', 'services.web.at."/x".slo', "above the service's deadline of 30 s", "raise"),
    (WEB + AT + 'slo = "4s"\ndeadline = "2s"\n', 'services.web.at."/x".slo', "above the deadline of 2 s", "raise"),
    (
        WEB + 'slo = "3s"\n' + AT + 'deadline = "2s"\n',
        'services.web.at."/x".deadline',
        "below the service's slo of 3 s",
        "an slo of its own",
    ),
    (WEB + AT + 'deadline = "3d"\n', 'services.web.at."/x".deadline', "longer than a day", "30s"),
    # overload
    (WEB + 'overload = "off"\n', "services.web.overload", 'must be "adapt" or "observe", not "off"', "observe"),
    (WEB + 'criticality = "low"\n', "services.web.criticality", '"sheddable_plus" or "sheddable", not "low"', ""),
    (WEB + "limit = 0\n", "services.web.limit", "must be at least 1, not 0", "limit = 40"),
    # limits
    (WEB + 'slo = "40s"\n', "services.web.slo", "above the deadline of 30 s", "raise the deadline"),
    (WEB + 'drain_timeout = "3d"\n', "services.web.drain_timeout", "longer than a day", "30s"),
    (WEB + 'memory_max = "1MiB"\n', "services.web.memory_max", "less than an empty Python", "512MiB"),
    # files and folders
    (WEB + 'static = { "/s" = "nope/" }\n', 'services.web.static."/s"', "folder nope/ is missing", "mkdir -p nope/"),
    (WEB + 'static = { "/s" = "headway.toml" }\n', 'services.web.static."/s"', "is not a folder", "mkdir"),
    (WEB + 'folder = "nope"\n', "services.web.folder", "folder nope is missing", "relative to"),
    (WEB + 'python = "nope"\n', "services.web.python", "program nope is missing", "nearest .venv"),
    (WEB + 'python = "headway.toml"\n', "services.web.python", "cannot be executed", "chmod +x"),
    (WEB + 'python = "."\n', "services.web.python", "is not a program", "./bin/python"),
    ('[services.a]\ncommand = "./nope"\n', "services.a.command", "program ./nope is missing", "PATH"),
    (WEB + '[databases.a]\nschema = "s.sql"\n', "databases.a.schema", "file s.sql is missing", "SQL file"),
    ('[edge.tls]\ncertificate = "c.pem"\n' + WEB, "edge.tls.certificate", "file c.pem is missing", "PEM file"),
]


@pytest.mark.parametrize(("toml", "path", "message", "hint"), CASES, ids=[f"{c[1]}:{c[2]}"[:60] for c in CASES])
def test_one_mistake_is_one_problem_with_path_reason_and_hint(folder, toml, path, message, hint) -> None:
    problems = folder.problems(toml)
    assert [problem.path for problem in problems] == [path], problems
    assert message in problems[0].message
    assert hint in problems[0].hint


def test_missing_key_file_and_only_redirecting_addresses_are_told(folder) -> None:
    folder.write("c.pem")
    told = folder.problems(
        '[edge]\nbind = ["http://127.0.0.1:8000", "0.0.0.0:80"]\ntls = { certificate = "c.pem", key = "k.pem" }\n' + WEB
    )
    assert [(problem.path, problem.message) for problem in told] == [
        ("edge.bind", "nothing here speaks HTTPS: every address only redirects"),
        ("edge.tls.key", "file k.pem is missing"),
    ]


def test_a_wrong_entry_does_not_hide_the_next_one_of_its_list(folder) -> None:
    told = folder.problems(WEB + 'uses = [3, "nope", "web"]\nroutes = [3, "/a b", "/"]\n')
    assert [problem.path for problem in told] == [
        "services.web.uses[0]",
        "services.web.uses[1]",
        "services.web.uses[2]",
        "services.web.routes[0]",
        "services.web.routes[1]",
    ]


def test_a_refused_table_is_not_told_again_by_those_who_use_it(folder) -> None:
    told = folder.problems(WEB + 'env = { R = "{hot.url}" }\n[caches]\nhot = 3\n')
    assert [problem.path for problem in told] == ["caches.hot"]


@pytest.mark.parametrize(
    "toml",
    [
        WEB + 'env = { U = "hunter2 { x" }\n',
        WEB + 'env = { U = "{hunter2 secret}" }\n',
        WEB + 'env = { U = ["hunter2"] }\n',
        WEB + '[databases.a]\nurl = "mysql://u:hunter2@h/d"\n',
        WEB + '[databases.a]\nurl = "postgresql://u:hunter2@h:x/d"\n',
        WEB + '[databases.a]\nurl = "{env.A}hunter2"\n',
    ],
)
def test_what_may_be_a_secret_is_never_repeated(folder, toml) -> None:
    folder.write("headway.toml", toml)
    with pytest.raises(DeclarationError) as caught:
        load(None, cwd=folder.path, environment={"A": "hunter2"})
    assert caught.value.problems
    assert "hunter2" not in report(caught.value)


def test_a_secret_that_cannot_be_text_is_refused(folder) -> None:
    (folder.path / "key").write_bytes(b"\xff\xfe")
    (folder.path / "zero").write_bytes(b"a\0b")
    (folder.path / "long").write_bytes(b"a" * 70_000)
    told = folder.problems(WEB + 'env = { A = "{file.key}", B = "{file.zero}", C = "{file.long}", D = "{file..}" }\n')
    assert [problem.message for problem in told] == [
        "file key is not UTF-8 text",
        "file zero holds a zero byte, which no environment variable can",
        "file long is larger than 64 KiB",
        "file . cannot be read: Is a directory",
    ]


@pytest.mark.usefixtures("modes_bind")
def test_a_file_without_permission_is_told(folder) -> None:
    folder.write("c.pem").chmod(0)
    (problem,) = folder.problems('[edge.tls]\ncertificate = "c.pem"\n' + WEB)
    assert problem.message == "c.pem cannot be read"


def test_every_mistake_of_ranges_and_routes_is_told_at_once(folder) -> None:
    told = folder.problems(
        WEB
        + 'routes = ["/api"]\nslo = "3s"\nreplicas = { min = 0, max = "x" }\n'
        + '[services.web.at."/api"]\n'
        + '[services.web.at."/other"]\nslo = "40s"\nweight = 3\n'
        + '[services.web.at."/api/b"]\ndeadline = "2s"\ncriticality = "low"\n'
    )
    assert [problem.path for problem in told] == [
        "services.web.replicas.min",
        "services.web.replicas.max",
        'services.web.at."/api"',
        'services.web.at."/other"',
        'services.web.at."/other".slo',
        'services.web.at."/other".weight',
        'services.web.at."/api/b".deadline',
        'services.web.at."/api/b".criticality',
    ]
