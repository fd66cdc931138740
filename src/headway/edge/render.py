"""Turns the edge plan into one haproxy.cfg, readable on its own by whoever runs it without Headway one day.

Pure: the same plan gives the same text. What can change while it runs (replicas, their limits, the certificate) is
changed through the run-time API as well, and the file is rewritten, so that a restarted HAProxy finds the present.
"""

from __future__ import annotations

from headway.edge.backend import BUFFER_BYTES, class_lines
from headway.edge.calls import call_frontend, connection_lines, gate_lines, public_lines
from headway.edge.noted import access_log_lines, identity_lines
from headway.edge.provenance import forwarded_lines, public_scheme
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
    sections += [_section(*call_frontend(plan, service)) for service in plan.services if service.called_at]
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
        "# HAProxy reckons with two all the same, and may say at its start that the limit is too low.",
        f"maxconn {plan.connections_max + plan.call_connections_max}",
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
        *connection_lines(plan),
        "",
        *access_log_lines(plan),
        "",
        *_trusted(plan),
        *identity_lines(plan),
        "",
        *gate_lines(),
        "",
        "# Headers that only Headway, or a proxy that is trusted, may set.",
        *forwarded_lines(plan),
        *public_lines(plan, public_scheme(plan)),
        *_client_rate(plan),
        "",
        *route_lines(tuple(service for service in plan.services if service.routes), UNROUTED, plan.run_folder),
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


def _redirect(plan: EdgePlan, listener: Listener) -> str:
    port = "" if listener.redirect_to_port == 443 else f":{listener.redirect_to_port}"
    target = f"https://%[req.hdr(host),host_only]{port}%[pathq]"
    lines = [
        _bind(plan, listener),
        "",
        *access_log_lines(plan),
        "",
        "http-request deny status 400 default-errorfiles unless { req.hdr(host) -m found }",
        f"http-request redirect code 301 location {target} if {{ method GET HEAD }}",
        f"http-request redirect code 308 location {target}",
    ]
    return _section(f"frontend {REDIRECT}.{listener.fd}", lines)


def _unrouted() -> str:
    answer = 'string "No service has a route for this address.\\n"'
    return _section(f"backend {UNROUTED}", [f"http-request return status 404 content-type text/plain {answer}"])
