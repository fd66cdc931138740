"""Who asks, and how: forwarded headers that are believed from trusted proxies alone, and written anew otherwise."""

from __future__ import annotations

from headway.edge.words import word
from headway.model.calls import ANSWERED, DEADLINE
from headway.model.edge import EdgePlan


def forwarded_lines(plan: EdgePlan) -> list[str]:
    """Forwarded headers: believed from trusted networks, written anew otherwise; and the client's resolved address."""
    foreign = ["baggage", "forwarded", "x-real-ip", "x-forwarded- -m beg"]
    unless = " unless trusted" if plan.trusted else ""
    # Neither what services tell each other comes in, nor what Headway's parts tell each other of an answer goes out.
    lines = [
        "http-request del-header x-headway- -m beg",
        f"http-request del-header {DEADLINE}",
        f"http-after-response del-header {ANSWERED}",
    ]
    lines += [f"http-request del-header {name}{unless}" for name in foreign]
    if not plan.trusted:
        return [
            *lines,
            "http-request add-header X-Forwarded-For %[src]",
            f"http-request add-header X-Forwarded-Proto {_scheme(plan)}",
            "http-request add-header X-Forwarded-Host %[req.hdr(host)]",
            f"http-request add-header X-Forwarded-Port {_port(plan)}",
        ]
    for name, value in (("Proto", _scheme(plan)), ("Host", "%[req.hdr(host)]"), ("Port", _port(plan))):
        header = f"X-Forwarded-{name}"
        known = "-i http https" if name == "Proto" else "-m found"
        lines.append(f"http-request set-header {header} {value} unless {{ req.hdr({header}) {known} }}")
    return [
        *lines,
        "# The chain of addresses grows by the one that reached us; the client is the last that is no trusted proxy.",
        "acl chain req.fhdr(x-forwarded-for) -m found",
        'http-request set-var-fmt(req.chain) "%[req.fhdr(x-forwarded-for)], %[src]" if chain',
        "http-request set-var(req.chain) src unless chain",
        "http-request set-header X-Forwarded-For %[var(req.chain)]",
        *(f"http-request set-src hdr_ip(x-forwarded-for,-{hop}) if trusted" for hop in range(2, 5)),
    ]


def _scheme(plan: EdgePlan) -> str:
    kinds = {listener.tls for listener in plan.listeners if listener.redirect_to_port is None}
    if kinds == {True, False}:
        return "%[ssl_fc,iif(https,http)]"
    return "https" if True in kinds else "http"


def public_scheme(plan: EdgePlan) -> str:
    """The scheme the client used: behind a trusted proxy it is the proxy's word."""
    return "%[req.hdr(x-forwarded-proto),lower]" if plan.trusted else _scheme(plan)


def _port(plan: EdgePlan) -> str:
    ports = {listener.address.rpartition(":")[2] for listener in plan.listeners if listener.redirect_to_port is None}
    if len(ports) == 1 and not plan.proxy_protocol:
        return word(ports.pop())
    return "%[dst_port]"
