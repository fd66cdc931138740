"""Why a server does not answer or lets nobody in, in words for whoever looks after it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from headway.caching.place import Place

TOO_OLD = "Valkey of any version or Redis from 6.2; without a url Headway runs an embedded one"
_FULL = "it is full: give it more maxmemory, or a maxmemory-policy that evicts, as allkeys-lru"
_PROXY = "a proxy or an access list may stand before it: allow CLIENT, INFO, EVAL and EVALSHA, or name another"


@dataclass(frozen=True, slots=True)
class Refusal:
    """`text` says where and what, `hint` what to do. One that `passes` needs nobody."""

    text: str
    hint: str = ""
    passes: bool = False

    @property
    def whole(self) -> str:
        """Both, in one line for a log."""
        return f"{self.text}; {self.hint}" if self.hint else self.text


def unanswered(place: Place, error: Exception) -> Refusal:
    """It cannot be reached, or what answers is not believed."""
    hint = ""
    if getattr(error, "verify_code", None) is not None:  # of ssl's error alone
        hint = "the machine's certificates decide whom to believe, or those of the file that SSL_CERT_FILE names"
    return Refusal(f"{place.shown} does not answer: {reason(error)}", hint, passes=not hint)


def unwelcome(place: Place, said: str) -> Refusal:
    """It answered the greeting by an error."""
    said = without_secret(place, said)
    if said.startswith(("WRONGPASS", "NOAUTH", "ERR AUTH", "NOPERM")):
        return Refusal(f"{place.shown} does not let us in: {said}", "look after user and password of the url")
    if said.startswith(("LOADING", "MASTERDOWN")):
        return Refusal(f"{place.shown} does not answer yet: {said}", passes=True)
    return Refusal(f"{place.shown} does not speak RESP3: {said}", f"a cache needs {TOO_OLD}")


def copies(place: Place) -> Refusal:
    """It copies another server, and what is made void there it hears late."""
    hint = "name the one that leads, or the Sentinels that know it: sentinel = { master = …, hosts = […] }"
    return Refusal(f"{place.shown} is a copy of another server and takes no writes", hint)


def refused(place: Place, words: str, said: str) -> Refusal:
    """It does not do what `words` asked."""
    hint = _FULL if said.startswith("OOM") else _PROXY
    return Refusal(f"{place.shown} refuses {words}: {without_secret(place, said)}", hint)


def without_secret(place: Place, said: str) -> str:
    """Servers that do not know a command repeat what came with it: of a greeting, the password."""
    return said.replace(place.password, "…") if place.password else said


def reason(error: Exception) -> str:
    """An operating system's error without its number."""
    if isinstance(error, TimeoutError):
        return "it is silent"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
