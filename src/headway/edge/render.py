"""Turns the edge plan into one haproxy.cfg, readable on its own by whoever runs it without Headway one day.

Pure: the same plan gives the same text. What can change while it runs (replicas, their limits, the certificate) is
changed through the run-time API as well, and the file is rewritten, so that a restarted HAProxy finds the present.
"""

from __future__ import annotations

from headway.edge.backend import BUFFER_BYTES, class_lines
from headway.edge.provenance import forwarded_lines
from headway.edge.queues import STICK_COUNTERS, classes, tables, variable_lines
from headway.edge.routes import route_lines
from headway.edge.words import comment, milliseconds, word
from headway.model.edge import EdgePlan, Listener
from headway.model.overload import class_name

# Names with a dot cannot collide with a service.
PUBLIC = "headway.public"
REDIRECT = "headway.redirect"
UNROUTED = "headway.unrouted"


def render(plan: EdgePlan) -> str:
    """The whole configuration file."""
    sections = [_head(plan), _global(plan), _defaults(plan)]
    if any(listener.redirect_to_port is None for listener in plan.listeners):
        sections.append(_public(plan))
    sections.extend(_redirect(plan, listener) for listener in plan.listeners if listener.redirect_to_port is not None)
    for service in plan.services:
        sections += [
            _section(f"backend {word(class_name(service.name, cls.number))}", class_lines(plan, service, cls))
            for cls in classes(service)
        ]
    sections += [_section(f"backend {name}", lines) for name, lines in tables()]
    sections.append(_unrouted())
    return "\n".join(sections)


def _section(title: str, lines: list[str]) -> str:
    return "\n".join([title, *(f"    {line}" if line else "" for line in lines), ""])


def _head(plan: EdgePlan) -> str:
    return (
        f"# The edge of {comment(plan.system)}, written by Headway; changes made here are overwritten.\n"
        "# It is a plain HAProxy configuration. To go on without Headway, replace each `bind fd@N` by the address in\n"
        "# its comment, start the replicas yourself, and run: haproxy -f haproxy.cfg\n"
    )


def _global(plan: EdgePlan) -> str:
    lines = [
        "# Replicas, limits and certificates change through this socket, without a reload.",
        f"stats socket {word(plan.run_folder + '/edge.sock')} mode 600 level admin expose-fd listeners",
        "stats timeout 1m",
        f"nbthread {plan.threads}",
        "",
        "# Connections to replicas are bounded by their limits, so two descriptors for each client are not needed.",
        f"maxconn {plan.connections_max}",
        f"ulimit-n {plan.descriptors_max}",
        "no strict-limits",
        "",
        "# A replaced process may finish what it has, streams included, but not for ever.",
        f"hard-stop-after {milliseconds(plan.replaced_max_s)}",
        "",
        f"tune.bufsize {BUFFER_BYTES}",
        "tune.http.logurilen 256",
        "tune.idle-pool.shared on",
        "spread-checks 5",
        f"tune.stick-counters {STICK_COUNTERS}",
    ]
    if plan.services:
        lines += [
            "",
            "# What each queue may hold, and in which order. Headway sets these while it runs, through the socket, and",
            "# writes the last ones here, where a HAProxy that is started again begins.",
            *variable_lines(plan.services),
        ]
    if plan.certificate is not None:
        lines += ["", "ssl-default-bind-options ssl-min-ver TLSv1.2"]
    return _section("global", lines)


def _defaults(plan: EdgePlan) -> str:
    lines = [
        "mode http",
        "# A header name with an underscore would pass for the one with a dash in WSGI and CGI environments.",
        "option http-restrict-req-hdr-names delete",
        "option dontlognull",
        "option http-ignore-probes",
        "# Keep-alive connections end with an answer that says so, never in the middle, when this process is replaced.",
        "option idle-close-on-response",
        "",
        f"timeout http-request {milliseconds(plan.header_timeout_s)}",
        f"timeout http-keep-alive {milliseconds(plan.idle_timeout_s)}",
        f"timeout client {milliseconds(plan.idle_timeout_s)}",
        "timeout client-fin 30s",
        "timeout server-fin 30s",
        "timeout connect 2s",
        "timeout tunnel 1h",
        "",
        "# What the edge answers by itself.",
        *(_http_error(status, text, extra) for status, text, extra in _ANSWERS),
    ]
    return _section("defaults", lines)


_RETRY_AFTER = " hdr Retry-After 1"
_ANSWERS = (
    (400, "This request is malformed.", ""),
    (404, "Nothing is served at this address.", ""),
    (405, "This method is not allowed.", ""),
    (408, "The request did not arrive in time.", ""),
    (413, "The request body is too large.", ""),
    (429, "Too many requests from this address.", _RETRY_AFTER),
    (500, "The edge could not handle this request.", ""),
    (502, "The service broke off before it answered.", ""),
    (503, "The service is at its limit or not ready. Try again shortly.", _RETRY_AFTER),
    (504, "The service did not answer in time.", ""),
)


def _http_error(status: int, text: str, extra: str) -> str:
    return f'http-error status {status} content-type text/plain string "{text}\\n"{extra}'


def _public(plan: EdgePlan) -> str:
    lines = [_bind(plan, listener) for listener in plan.listeners if listener.redirect_to_port is None]
    if plan.proxy_protocol and plan.trusted:
        lines.append(f"tcp-request connection expect-proxy layer4 if {{ src {_networks(plan)} }}")
    lines += [
        "",
        *_access_log(plan),
        "",
        *_trusted(plan),
        *_identity(plan),
        "",
        "# Headway's own paths are not for the outside, however they are spelt; neither are tunnels.",
        "http-request deny status 404 default-errorfiles if { path,url_dec -m sub /-headway/ }",
        "http-request deny status 405 default-errorfiles if { method CONNECT }",
        "# Ambiguous framing is refused by HAProxy's parser, all but this.",
        "http-request deny status 400 default-errorfiles if { req.ver 1.0 } { req.hdr(transfer-encoding) -m found }",
        "",
        "# Headers that only Headway, or a proxy that is trusted, may set.",
        *forwarded_lines(plan),
        *_client_rate(plan),
        "",
        *route_lines(plan.services, UNROUTED, plan.run_folder),
    ]
    return _section(f"frontend {PUBLIC}", lines)


def _bind(plan: EdgePlan, listener: Listener) -> str:
    tls = ""
    if listener.tls:
        if plan.certificate is None:
            raise ValueError(f"the listener {listener.address} speaks TLS, but the plan has no certificate")
        tls = f" ssl crt {word(plan.certificate)} alpn h2,http/1.1"
    return f"bind fd@{listener.fd}{tls}  # {comment(listener.address)}"


def _trusted(plan: EdgePlan) -> list[str]:
    return [f"acl trusted src {_networks(plan)}", ""] if plan.trusted else []


def _networks(plan: EdgePlan) -> str:
    return " ".join(word(network) for network in plan.trusted)


def _access_log(plan: EdgePlan) -> list[str]:
    if not plan.access_log:
        return ["# The access log is off."]
    answered = {"queue_ms": "%Tw", "ttfb_ms": "%[var(txn.ttfb,-1)]", "id": _id(plan)}
    unreadable = {"queue_ms": "-1", "ttfb_ms": "-1", "id": ""}
    return [
        "# One JSON object a request, without the query string, which may hold secrets.",
        "log stdout len 8192 format raw local0 info",
        f"log-format '{_log_line(answered)}'",
        "# The same for what was no request at all.",
        f"error-log-format '{_log_line(unreadable)}'",
        "http-request set-var(txn.begun) date(0,ms)",
        "http-after-response set-var(txn.ttfb) date(0,ms),sub(txn.begun)",
    ]


def _log_line(values: dict[str, str]) -> str:
    fields = {
        "time": "%Ts%ms",
        "client": '"%ci"',
        "method": '"%HM"',
        "path": '"%[capture.req.uri,field(1,?),json(utf8s)]"',
        "status": "%ST",
        "service": '"%b"',
        "replica": '"%s"',
        "queue_ms": values["queue_ms"],
        "ttfb_ms": values["ttfb_ms"],
        "total_ms": "%Ta",
        "bytes": "%B",
        "end": '"%ts"',
        "id": f'"{values["id"]}"',
    }
    return "{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}"


def _client_rate(plan: EdgePlan) -> list[str]:
    if plan.client_rate_per_s is None:
        return []
    # The longer the window, the finer a slow rate can be told, and the larger the burst that it lets through.
    period_s = 1 if plan.client_rate_per_s >= 10 else 10 if plan.client_rate_per_s >= 1 else 60
    allowed = max(1, round(plan.client_rate_per_s * period_s))
    return [
        "",
        f"# One client address may make {allowed} requests in {period_s} s; of IPv6 its /64 counts, which one client",
        "# owns. What is refused does not count, so that a client that goes on too fast still gets its share.",
        f"stick-table type ipv6 size 100k expire {period_s * 2}s store http_req_rate({period_s}s)",
        f"acl too_fast src,ipmask(32,64),table_http_req_rate({PUBLIC}) ge {allowed}",
        "http-request deny status 429 default-errorfiles if too_fast",
        "http-request track-sc0 src,ipmask(32,64)",
    ]


def _identity(plan: EdgePlan) -> list[str]:
    """An id for each request and a trace that begins here, unless a valid one came in.

    The id is the time in microseconds (16 decimal digits, until the year 2286) and 16 random hexadecimal ones: it sorts
    by time, serves as trace id, and costs a microsecond less than HAProxy's `uuid`.
    """
    lines = [
        "# One id finds a request in the access log, in the app and in traces.",
        'unique-id-format "%[date(0,us)]%[rand,xxh64,hex,lower]"',
        f"http-request set-header traceparent 00-%[unique-id]-%[rand,xxh64,hex,lower]-01 unless {{ {_TRACED} }}",
    ]
    if plan.trusted:
        valid = "{ req.hdr(x-request-id) -m reg ^[A-Za-z0-9._-]{1,128}$ }"
        lines += [
            "http-request set-var(txn.id) unique-id",
            f"http-request set-var(txn.id) req.hdr(x-request-id) if trusted {valid}",
        ]
    return [
        *lines,
        f"http-request set-header X-Request-Id {_id(plan)}",
        f"http-after-response set-header X-Request-Id {_id(plan)}",
    ]


_TRACED = "req.hdr(traceparent) -m reg ^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"


def _id(plan: EdgePlan) -> str:
    return "%[var(txn.id)]" if plan.trusted else "%[unique-id]"


def _redirect(plan: EdgePlan, listener: Listener) -> str:
    port = "" if listener.redirect_to_port == 443 else f":{listener.redirect_to_port}"
    target = f"https://%[req.hdr(host),host_only]{port}%[pathq]"
    lines = [
        _bind(plan, listener),
        "",
        *_access_log(plan),
        "",
        "http-request deny status 400 default-errorfiles unless { req.hdr(host) -m found }",
        f"http-request redirect code 301 location {target} if {{ method GET HEAD }}",
        f"http-request redirect code 308 location {target}",
    ]
    return _section(f"frontend {REDIRECT}.{listener.fd}", lines)


def _unrouted() -> str:
    answer = 'string "No service has a route for this address.\\n"'
    return _section(f"backend {UNROUTED}", [f"http-request return status 404 content-type text/plain {answer}"])
