"""What the user left out and what has several spellings, settled once, so that no later part has to ask again."""

from __future__ import annotations

from headway.declaration.check import parse_network
from headway.declaration.references import references
from headway.declaration.responses import cache_of
from headway.declaration.routes import parse_route, sole_app
from headway.model.bind import Bind, parse_bind
from headway.model.declared import Edge, Service, System


def complete(system: System) -> System:
    """A checked system with its one spelling: routes, addresses, networks, and what `env` names."""
    sole = sole_app(system)
    services = {name: _service(service, system, sole=name == sole) for name, service in system.services.items()}
    return system.model_copy(update={"services": services, "edge": _edge(system.edge)})


def _service(service: Service, system: System, *, sole: bool) -> Service:
    known = (*system.databases, *system.caches, *system.services)
    named = (reference.owner for _, reference in references(service) if reference.owner in known)
    kept = {
        path: each.model_copy(update={"cache": cache_of(each, service, system)}) for path, each in service.cache.items()
    }
    update: dict[str, object] = {
        "routes": ("/",) if sole else tuple(dict.fromkeys(parse_route(route) for route in service.routes)),
        "at": {parse_route(prefix): at for prefix, at in service.at.items()},
        "static": {prefix.rstrip("/"): folder for prefix, folder in service.static.items()},
        "uses": tuple(dict.fromkeys((*service.uses, *named, *(each.cache for each in kept.values())))),
        "cache": kept,
        "app": service.app.strip() if service.app is not None else None,
    }
    return service.model_copy(update={key: value for key, value in update.items() if value != getattr(service, key)})


def _edge(edge: Edge) -> Edge:
    binds = tuple(_bind(parse_bind(text), tls=edge.tls is not None) for text in edge.bind)
    trusted = tuple(dict.fromkeys(parse_network(text) for text in edge.trusted))
    return edge.model_copy(update={"bind": binds, "trusted": trusted})


def _bind(bind: Bind, *, tls: bool) -> str:
    """`host:port`, with `http://` kept only where it says more than the address: a redirect beside TLS."""
    return f"http://{bind.text}" if bind.redirects(tls=tls) else bind.text
