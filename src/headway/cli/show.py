"""How things look on a terminal: calm, aligned, the same words everywhere. Text in, text out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from headway.model.units import format_bytes

_MARKS = {"ready": "●", "starting": "◌", "draining": "◍", "down": "○", "stopping": "◍", "degraded": "◐", "failed": "○"}


def mark(state: str) -> str:
    """One sign for a state, readable without colour."""
    return _MARKS.get(state, "·")


def table(rows: Sequence[Sequence[str]], *, indent: str = "  ", right: frozenset[int] = frozenset()) -> list[str]:
    """Columns aligned by their widest cell; `right` are the columns aligned to the right."""
    if not rows:
        return []
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(widths[index]) if index in right else cell.ljust(widths[index]) for index, cell in enumerate(row)
        ]
        lines.append((indent + "  ".join(cells)).rstrip())
    return lines


def status_lines(document: dict[str, Any]) -> list[str]:
    """The status document for a person."""
    edge = document["edge"]
    head = f"{mark(document['state'])} {document['system']}  {document['state']}"
    if edge["url"]:
        head += f"  {edge['url']}"
    if document["mode"] == "detached":
        head += "  detached"
    lines = [head, ""]
    rows = []
    for name, service in document["services"].items():
        wanted = f"{service['ready']}/{service['wanted']} ready{_number_note(service)}"
        rows.append((mark(_service_state(service)), name, wanted, _reached(service)))
    for name, database in document["databases"].items():
        for server in database["servers"]:
            called, holds = name, ""
            if database["shards"] is not None:
                called, holds = f"{name}/{server['name']}", f"  {server['shards']} of {database['shards']} shards"
            rows.append((mark(server["state"]), called, server["state"], f"{server['url']}{holds}"))
    for name, cache in document["caches"].items():
        rows.append((mark(cache["state"]), name, cache["state"], f"{cache['url']}{_cache_note(cache)}"))
    rows.append((mark(edge["state"]), "edge", edge["state"], f"HAProxy, {edge['reloads']} reloads"))
    lines += table(rows)
    lines += [
        f"  servers of {name} by hand, not declared: {database['servers_by_hand']}"
        for name, database in document["databases"].items()
        if database.get("servers_by_hand")
    ]
    lines += [
        f"  server {database['departing']} of {name} is leaving: headway db status {name}"
        for name, database in document["databases"].items()
        if database.get("departing")
    ]
    lines += [
        f"  {name} does not ask {target} now, it failed too often: {told['open_in']} of {told['processes']} processes"
        for name, service in document["services"].items()
        for target, told in service["calls"].items()
        if told["breaker"] != "closed"
    ]
    lines += [
        f"  {name} has {told['in_flight']} calls to {target} under way; {told['bound']} may be now, "
        f"{told['bound_max']} where it is quick"
        for name, service in document["services"].items()
        for target, told in service["calls"].items()
        if told["in_flight"] >= told["bound"]
    ]
    replicas = [replica for service in document["services"].values() for replica in service["replicas"]]
    if replicas:
        lines.append("")
        body: list[tuple[str, ...]] = [("replica", "state", "pid", "in flight", "limit", "memory", "restarts", "")]
        body += [_replica_row(replica) for replica in replicas]
        lines += table(body, right=frozenset({2, 3, 4, 5, 6}))
    lines += _overload_lines(document)
    held = [(name, service["hold"]) for name, service in document["services"].items() if service["hold"]]
    lines += ["", *(f"  {held_line(name, hold)}" for name, hold in held)] if held else []
    if document["supervisor"] != "ready":
        what = "is gone" if document["supervisor"] == "gone" else "does not answer"
        lines += ["", f"the supervisor {what}: traffic goes on, nothing can be started", "hint: headway up --detach"]
    return lines


def _cache_note(cache: dict[str, Any]) -> str:
    """What the server holds, and that it is full."""
    if cache["used_bytes"] is None:
        return ""
    most = f" of {format_bytes(cache['max_bytes'])}" if cache["max_bytes"] else ""
    evicted = f", {cache['evicted']:,} evicted" if cache["evicted"] else ""
    return f"  {format_bytes(cache['used_bytes'])}{most}{evicted}"


def _overload_lines(document: dict[str, Any]) -> list[str]:
    """What holds under overload: classes that refuse or queue now, and routes that queue by themselves."""
    lines = []
    for service in document["services"].values():
        told = service.get("overload")
        if not told:
            continue
        for name, cls in told["classes"].items():
            if cls["overloaded"] or cls["refused_per_s"] >= 1:
                lines.append(f"  {name} {_held_back(cls, refuses=told['mode'] != 'observe')}")
        if told["slow_routes"]:
            lines.append(f"  slow routes queue by themselves: {', '.join(told['slow_routes'])}")
    return ["", *lines] if lines else []


def _held_back(cls: dict[str, Any], *, refuses: bool) -> str:
    word = "refused at once" if refuses else "would be refused"
    parts = [f"is at its limit: {cls['refused_per_s']:,.0f}/s {word}"]
    if cls["capacity_per_s"]:
        parts.append(f"{cls['capacity_per_s']:,.0f}/s answered")
    if cls["queue_max"] is not None:
        parts.append(f"{cls['queued']} of {cls['queue_max']:,} waiting")
    return ", ".join(parts)


def _number_note(service: dict[str, Any]) -> str:
    """Where a service's number of replicas comes from, unless it is simply the declared one."""
    notes = []
    if service["range"] is not None:
        notes.append(f"{service['range']['min']}–{service['range']['max']}")
    elif service["override"] is not None:
        notes.append(f"declared {service['declared']}")
    if service["override"] is not None:
        notes.append("scaled by hand")
    return f" ({', '.join(notes)})" if notes else ""


def held_line(name: str, hold: dict[str, Any]) -> str:
    """One line of a hold: what, by whom, until when."""
    numbers = [f"{hold['replicas']} replicas"] if hold["replicas"] is not None else []
    numbers += [f"limit {hold['limit']}"] if hold["limit"] is not None else []
    what = " and ".join(numbers) or "as it is"
    until, now = time.localtime(hold["until"]), time.localtime()
    shown = time.strftime("%H:%M:%S" if until[:3] == now[:3] else "%Y-%m-%d %H:%M", until)
    return f"{name} is held: {what}, by {hold['by']}, until {shown}"


def _reached(service: dict[str, Any]) -> str:
    """From where requests come to it."""
    by = ", ".join(service["calls_from"])
    if service["routes"]:
        return " ".join(service["routes"])
    return f"called by {by}" if by else "private"


def _service_state(service: dict[str, Any]) -> str:
    if service["ready"] >= service["wanted"]:
        return "ready"
    return "degraded" if service["ready"] else "starting"


def _replica_row(replica: dict[str, Any]) -> tuple[str, ...]:
    memory = format_bytes(replica["rss_bytes"]) if replica["rss_bytes"] else ""
    return (
        replica["name"],
        replica["state"],
        str(replica["pid"] or ""),
        str(replica["in_flight"] + replica["streams"]),
        str(replica["limit"] or ""),
        memory,
        str(replica["restarts"]),
        replica["failure"] or replica["retire"] or "",
    )


def traffic_line(document: dict[str, Any]) -> str:
    """One line of what passes now."""
    traffic = document["traffic"]

    def ms(value: float | None) -> str:
        return "–" if value is None else f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"

    parts = [
        f"{traffic['requests_per_s']:,.0f} requests/s",
        f"p50 {ms(traffic['p50_ms'])}",
        f"p99 {ms(traffic['p99_ms'])}",
        f"{traffic['refused_per_s']:,.0f} refused/s",
    ]
    if traffic["queued"]:
        parts.append(f"{traffic['queued']} queued")
    return "   ".join(parts)


def journal_line(entry: dict[str, Any]) -> str:
    """One line of the journal."""
    when = time.strftime("%H:%M:%S", time.localtime(entry["time"]))
    what = f"{entry['what']}: " if entry["what"] != "note" else ""
    sign = "!" if entry["level"] == "warning" else " "
    return f"{when} {sign} {entry['about']:<12} {what}{entry['reason']}"
