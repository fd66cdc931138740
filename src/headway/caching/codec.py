"""Values ↔ bytes, without pickle: what a cache gives back must be what went in, in type and value all the way down.

A cache changes a program quietly when a tuple comes back as a list, or a marked-safe string as a plain one: the
first call, which got the value itself, works; the next one does not. So the return annotation says what to make of
the bytes, and each value is read back before it is stored. What did not survive is an error with its place, at the
first call and not at a later one. Pickle carries more, but runs what it reads: whoever can write to the server
would run code in every app.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import types
import typing
import zlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

import msgspec

from headway.caching.difference import difference
from headway.caching.weight import weigh as weigh
from headway.errors import CannotCarry

COMPRESS_FROM = 4096
_WIN = 0.9  # compressed only if it comes to less of the size than this
_LEVEL = 1  # of zlib: two thirds of the gain of level 6 at a third of the time
_HINT = "Annotate the return type with what it is, return plain data, or give `codec=`."
_DEPTH_MAX = 50


class Codec(Protocol):
    """How values of one function become bytes, and again values. `decode` raises on bytes that are none of its own."""

    def encode(self, value: Any) -> bytes: ...

    def decode(self, data: bytes) -> Any: ...


class MessagePack:
    """MessagePack, read as the annotation says; Any gives plain data: None, bool, numbers, str, bytes, list, dict, and
    moments in UTC."""

    __slots__ = ("decode", "encode")

    def __init__(self, annotation: Any = Any) -> None:
        self.encode: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode
        self.decode: Callable[[bytes], Any] = msgspec.msgpack.Decoder(annotation).decode


class Pydantic:
    """MessagePack, made of what pydantic gives out and takes in again: for models, and for unions that only pydantic
    can tell apart."""

    def __init__(self, annotation: Any) -> None:
        import pydantic

        self._adapter = pydantic.TypeAdapter(annotation)
        self._encoder = msgspec.msgpack.Encoder(enc_hook=_as_text)
        self._decoder = msgspec.msgpack.Decoder()
        # Fields by their own names: what goes out under one alias and comes in under another would be lost.
        self._by_name = tuple(int(part) for part in pydantic.VERSION.split(".")[:2]) >= (2, 11)

    def encode(self, value: Any) -> bytes:
        plainer = self._adapter.dump_python(value, by_alias=not self._by_name, round_trip=True, warnings=False)
        return self._encoder.encode(plainer)

    def decode(self, data: bytes) -> Any:
        plainer = self._decoder.decode(data)
        if self._by_name:
            return self._adapter.validate_python(plainer, by_name=True, by_alias=False)
        return self._adapter.validate_python(plainer)


def _as_text(value: Any) -> str:
    """Of addresses, paths and the like pydantic reads the text that they print; what it does not read is found out."""
    return str(value)


def codec_for(annotation: object) -> Codec:
    """The codec for values of an annotation: MessagePack where msgspec knows it, else pydantic. One that says nothing
    (Any, object, none, a name that is not known yet) gives plain MessagePack. Raises CannotCarry."""
    if annotation in (inspect.Parameter.empty, Any, object) or isinstance(annotation, str | typing.ForwardRef):
        return MessagePack()
    if _has_pydantic(annotation, set()):
        return Pydantic(annotation)
    try:
        return MessagePack(annotation)
    except (TypeError, NameError) as error:
        refused = error
    try:
        return Pydantic(annotation)
    except Exception:  # pydantic raises many kinds; what msgspec says is the clearer
        raise CannotCarry(f"the annotation {_shown(annotation)}: {refused}", hint=_HINT) from None


def returned(function: Callable[..., Any]) -> object:
    """What a function's annotation says of its value; Any when it says nothing, or names what is not there at run
    time."""
    try:
        annotation = typing.get_type_hints(function, include_extras=True).get("return", Any)
    except Exception:  # whatever evaluating the app's text raises
        return Any
    if typing.get_origin(annotation) in (Awaitable, Coroutine):
        return typing.get_args(annotation)[-1]
    return annotation


def carried(codec: Codec, value: Any) -> tuple[bytes, Any]:
    """The bytes of a value, and the value as it will come back, which shares nothing with the first. Raises
    CannotCarry."""
    try:
        data = codec.encode(value)
    except Exception as error:
        where, culprit = _culprit(codec, value)
        raise CannotCarry(_cannot(where, culprit, error), hint=_hint_for(culprit)) from None
    try:
        again = codec.decode(data)
    except Exception as error:
        what = f"not what the annotation says: {_first_line(error)}"
        raise CannotCarry(f"{_place_of(error)}: {what}", hint=_HINT) from None
    try:
        found = difference(value, again)
    except RecursionError:
        raise CannotCarry("the value: nested too deeply, or in itself", hint=_HINT) from None
    if found is not None:
        hint = "Return moments in UTC (`.astimezone(UTC)`), or give `codec=`." if found.is_zone else _HINT
        raise CannotCarry(f"{found.where or 'the value'}: {found.what}", hint=hint)
    return data, again


# --- compression ----------------------------------------------------------------------------------------------------


def compressed(data: bytes) -> tuple[bytes, bool]:
    """The data, compressed when it is large and that is worth it; and whether it is."""
    if len(data) >= COMPRESS_FROM:
        small = zlib.compress(data, _LEVEL)
        if len(small) <= len(data) * _WIN:
            return small, True
    return data, False


def plain(data: bytes, size_max: int) -> bytes:
    """Compressed data as it was. Raises ValueError when it is damaged, or comes to more than `size_max` bytes: whoever
    wrote it may mean to fill the memory."""
    inflating = zlib.decompressobj()
    try:
        whole = inflating.decompress(data, size_max + 1)
    except zlib.error as error:
        raise ValueError(f"compressed data is damaged: {error}") from None
    if len(whole) > size_max:
        raise ValueError(f"compressed data comes to more than {size_max} bytes")
    if not inflating.eof or inflating.unused_data:
        raise ValueError("compressed data is cut off, or followed by more")
    return whole


# --- annotations ----------------------------------------------------------------------------------------------------


def _has_pydantic(annotation: object, seen: set[object]) -> bool:
    """Whether a model of pydantic is anywhere in it, also in the fields of dataclasses and the like."""
    pydantic = sys.modules.get("pydantic")
    if pydantic is None:
        return False
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, pydantic.BaseModel) or hasattr(annotation, "__pydantic_core_schema__"):
            return True
        if annotation in seen or not _has_fields(annotation):
            return False
        seen.add(annotation)
        try:
            return any(_has_pydantic(each, seen) for each in typing.get_type_hints(annotation).values())
        except Exception:  # whatever evaluating the app's text raises
            return False
    origin = typing.get_origin(annotation)
    inner = typing.get_args(annotation)
    if origin is typing.Annotated:
        inner = inner[:1]
    elif isinstance(origin, type):
        inner = (origin, *inner)
    return any(_has_pydantic(each, seen) for each in inner if not isinstance(each, str | int | bytes))


def _has_fields(kind: type) -> bool:
    return (
        dataclasses.is_dataclass(kind)
        or typing.is_typeddict(kind)
        or hasattr(kind, "_fields")
        or (issubclass(kind, msgspec.Struct))
    )


# --- errors ---------------------------------------------------------------------------------------------------------


def _culprit(codec: Codec, value: Any, where: str = "", depth: int = 0) -> tuple[str, Any]:
    """The innermost part that cannot be encoded by itself either."""
    if depth < _DEPTH_MAX:
        plainly = MessagePack()
        for place, part in _parts(value):
            try:
                plainly.encode(part)
            except Exception:
                return _culprit(codec, part, where + place, depth + 1)
    return where, value


def _parts(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(f"[{key!r:.40}]", part) for key, part in value.items()]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return [(f".{name}", part) for name, part in zip(value._fields, value, strict=False)]
    if isinstance(value, list | tuple):
        return [(f"[{at}]", part) for at, part in enumerate(value)]
    if isinstance(value, set | frozenset):
        return [(" (one of the set)", part) for part in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(f".{each.name}", getattr(value, each.name, None)) for each in dataclasses.fields(value)]
    if isinstance(value, msgspec.Struct):
        return [(f".{name}", getattr(value, name, None)) for name in type(value).__struct_fields__]
    return []


def _cannot(where: str, culprit: Any, error: Exception) -> str:
    kind = type(culprit)
    if isinstance(error, RecursionError):
        return "the value: nested too deeply, or in itself"
    if isinstance(culprit, int):
        return f"{where or 'the value'}: an int of more than 64 bits"
    return f"{where or 'the value'}: {kind.__module__}.{kind.__qualname__} cannot be carried as it is"


def _hint_for(culprit: Any) -> str:
    if inspect.isgenerator(culprit) or inspect.isasyncgen(culprit) or hasattr(culprit, "__next__"):
        return "It can be read once only: return a list of what it gives."
    if isinstance(culprit, int):
        return "Return it as text, or give `codec=`."
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and isinstance(culprit, pydantic.BaseModel):
        return f"Annotate the return type with it: `-> {type(culprit).__name__}`."
    if hasattr(culprit, "keys") and hasattr(culprit, "__getitem__"):
        return "Return it as a dict (`dict(row)`), or as a dataclass that the return type names."
    return "Return plain data, or a dataclass that the return type names, or give `codec=`."


_AT = re.compile(r" - at `\$(.*)`$")


def _place_of(error: Exception) -> str:
    found = _AT.search(str(error))
    return (found[1] if found else "") or "the value"


def _first_line(error: Exception) -> str:
    return _AT.sub("", " ".join(str(error).split("\n")[:3]))[:200]


def _shown(annotation: object) -> str:
    return annotation.__qualname__ if isinstance(annotation, type) else str(annotation)[:200]
