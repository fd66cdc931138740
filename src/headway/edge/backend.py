"""The backend of one class of requests: how long they may take, when they are repeated, and by whom they are answered.

Each class of a service has a backend of its own over the same replicas. HAProxy counts connections by backend and
server, so a class that is full holds up no other.
"""

from __future__ import annotations

from headway.edge.calls import level_lines, patience_lines, repeat_lines, silence_line
from headway.edge.provenance import public_scheme
from headway.edge.queues import queue_lines
from headway.edge.servers import CHECK_TIMEOUT_MS, draining_file, server_line
from headway.edge.words import comment, milliseconds, word
from headway.model.edge import EdgeClass, EdgePlan, EdgeService
from headway.model.overload import MAIN, SLOW

ALIVE_PATH = "/-headway/alive"
BUFFER_BYTES = 16384
_BUFFERED_BODY_BYTES = 8192

# A request whose method is idempotent can be repeated after a lost connection only while HAProxy keeps a copy of it,
# and a copy costs a whole buffer (16 KiB). So this many in flight are protected at once, for 4 MiB a class; a burst of
# 10,000 slow requests would cost 160 MiB otherwise.
_COPIES_MAX = 256


def class_lines(plan: EdgePlan, service: EdgeService, cls: EdgeClass) -> list[str]:
    """Everything in the backend. That of the main class is commented; the others are the same and say so."""
    settings = [
        *_patience(service, cls),
        "",
        "http-request deny status 413 default-errorfiles "
        f"if {{ req.hdr_val(content-length) gt {service.body_max_bytes} }}",
        "",
        *_sticky(plan, service),
        *level_lines(service, cls),
        *queue_lines(service, cls),
        "",
        "# A small body, and the beginning of a large one, is awaited here, so that a slow sender occupies no replica.",
        f"http-request wait-for-body time {milliseconds(plan.header_timeout_s)} at-least {_BUFFERED_BODY_BYTES} "
        "if { req.hdr_val(content-length) gt 0 } || { req.hdr(transfer-encoding) -m found }",
        "",
        *_repeats(service),
        "",
        *_asks(plan, service, cls),
        "",
        "http-reuse always",
        "# Answered by the worker's native server: a busy app stays, a dead or stopped one goes.",
        "option httpchk",
        f"http-check send meth GET uri {ALIVE_PATH} ver HTTP/1.1 hdr Host localhost",
        "http-check expect status 200",
        f"timeout check {CHECK_TIMEOUT_MS}ms",
    ]
    if cls.number != MAIN:
        bare = [line for line in settings if line and not line.startswith("#")]
        settings = [*_introduction(service, cls), *bare]
    lines = ["balance leastconn", "", *settings, ""]
    for replica in cls.replicas:
        disabled = "" if replica.enabled else " disabled"
        watched = server_line(replica, sticky=service.sticky, main=cls.number == MAIN)
        lines.append(f"server {word(replica.name)} {watched}{disabled}")
    return lines


def _introduction(service: EdgeService, cls: EdgeClass) -> list[str]:
    which = (
        "Routes that were found to be slow"
        if cls.number == SLOW
        else "Requests for " + comment(", ".join(cls.prefixes))
    )
    return [
        f"# {which}: as backend {service.name}, which explains each line, over the same replicas,",
        "# but with a queue and limits of their own.",
    ]


def _patience(service: EdgeService, cls: EdgeClass) -> list[str]:
    deadline = milliseconds(cls.deadline_s)
    return [
        "# Nobody waits longer than the deadline: not in the queue, and not for an answer that says nothing for so",
        "# long. An event stream may be silent for longer, and so may a WebSocket (a tunnel).",
        f"timeout queue {deadline}",
        f"timeout server {deadline}",
        "http-request set-var(txn.stays) str(stream) if { req.hdr(accept) -m sub text/event-stream }",
        *patience_lines(service, cls),
        *_hanging_up(service, cls),
        silence_line(service),
    ]


def _hanging_up(service: EdgeService, cls: EdgeClass) -> list[str]:
    cancels = service.cancels if cls.number == MAIN else cls.cancels
    if not cancels or service.called_at:  # where calls come in, it is so for all who ask
        return []
    return [
        "# Who hangs up leaves the queue, and the worker is told, so that it ends what nobody waits for.",
        "option abortonclose",
    ]


def _sticky(plan: EdgePlan, service: EdgeService) -> list[str]:
    if not service.sticky:
        return []
    cookie = word(f"headway-{service.name}")
    secure = " secure" if plan.certificate is not None else ""
    return [
        "# A client stays with its replica while that lives and is not about to go.",
        f'cookie {cookie} insert indirect nocache httponly{secure} attr "SameSite=Lax"',
        f"acl leaves req.cook({cookie}) -m str -f {word(draining_file(plan.run_folder))}",
        f"http-request replace-header Cookie ^(.*?)(?:;\\s*)?{cookie}=[^;]*(.*)$ \\1\\2 if leaves",
        "",
    ]


def _repeats(service: EdgeService) -> list[str]:
    several = f"proc.several.{service.name.replace('-', '.')}"
    return [
        "# A request whose replica broke off without a word is repeated on another one, if its method says that this",
        "# is harmless. A service that never had two replicas has nowhere to repeat it and keeps no copy.",
        "option redispatch 1",
        "retries 3",
        "retry-on conn-failure empty-response junk-response",
        f"http-request set-var({several}) bool(true) if !{{ var({several}) -m found }} {{ nbsrv gt 1 }}",
        f"http-request disable-l7-retry unless {{ method GET HEAD OPTIONS TRACE }} {{ var({several}) -m found }}",
        f"# Each copy kept for repeating costs {BUFFER_BYTES // 1024} KiB; in flight beyond {_COPIES_MAX} go without.",
        f"http-request set-var(req.queued) queue if {{ be_conn gt {_COPIES_MAX} }}",
        f"http-request disable-l7-retry if {{ be_conn gt {_COPIES_MAX} }}"
        f" {{ be_conn,sub(req.queued) gt {_COPIES_MAX} }}",
        *repeat_lines(service),
    ]


def _asks(plan: EdgePlan, service: EdgeService, cls: EdgeClass) -> list[str]:
    begun = "var(txn.begun)" if plan.access_log else "date(0,ms)"
    due = f"%[{begun},add({max(1, round(cls.deadline_s * 1000))})]"
    who = f"{public_scheme(plan)} %[src] %[src_port]"
    if service.called_at:
        who, due = "%[var(txn.from)]", "%[var(txn.due)]"
    return [
        "# For the worker alone, which finds it in the last header: SCHEME ADDRESS PORT of who asks, what stays open,",
        "# the class of the request, and the moment (Unix time in ms) after which nobody waits for the answer.",
        f'http-request add-header X-Headway-From "{who} %[var(txn.stays,-)] {cls.number} {due}"',
    ]
