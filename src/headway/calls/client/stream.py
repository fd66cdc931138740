"""An answer whose body is read as it comes."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import AsyncIterator
from time import monotonic

from headway.calls.client.answer import Head
from headway.calls.client.target import Target
from headway.calls.client.wire import FAULTS, Response, reason_of
from headway.errors import DeadlineExceeded, Unavailable

_LINE_MAX = 1 << 20
_WHOLE_MAX = 64 * 1024 * 1024


class StreamAnswer(Head):
    """Status and headers are there, the body comes. Each read waits for as long as the whole call might have taken."""

    __slots__ = ("_content", "_is_open", "_response", "_target", "_wait_s")

    def __init__(
        self, target: Target, response: Response, content: bytes | None, wait_s: float, has_no_retry: bool
    ) -> None:
        super().__init__(target.name, response.status, response.headers, has_no_retry)
        self._target = target
        self._response = response
        self._content = content  # of an answer that is no success in the eyes of the client: it has been read
        self._wait_s = wait_s
        self._is_open = True

    def raise_for_status(self) -> StreamAnswer:
        """Itself; StatusError when the status is no success."""
        self.refuse_errors()
        return self

    async def next_bytes(self) -> bytes:
        """The next piece of the body; empty at its end. DeadlineExceeded, Unavailable."""
        if self._content is not None:
            piece, self._content = self._content, b""
            return piece
        try:
            async with asyncio.timeout(self._wait_s):
                return await self._response.content.readany()
        except TimeoutError:
            self.close()
            error = DeadlineExceeded(
                self.service,
                f"nothing more of the answer within {self._wait_s:.3g} s",
                hint="`deadline=` of the call is how long each read may wait.",
                retry_after_s=1,
            )
            error.come_again()
            raise error from None
        except FAULTS as fault:
            self.close()
            broken = Unavailable(
                self.service,
                f"the answer broke off: {reason_of(fault)}",
                hint=f"headway status; headway logs {self.service}",
                retry_after_s=1,
            )
            broken.come_again()
            raise broken from fault

    async def aiter_bytes(self) -> AsyncIterator[bytes]:
        """The body in pieces, as they come."""
        while piece := await self.next_bytes():
            yield piece

    async def aiter_text(self) -> AsyncIterator[str]:
        """The body as text, in pieces."""
        decode = codecs.getincrementaldecoder(self.encoding)("replace").decode
        async for piece in self.aiter_bytes():
            if text := decode(piece):
                yield text
        if text := decode(b"", True):
            yield text

    async def aiter_lines(self) -> AsyncIterator[str]:
        """The body as lines, without their ends. ValueError for one of more than a MiB."""
        lines = Lines()
        async for text in self.aiter_text():
            for line in lines.feed(text):
                yield line
        for line in lines.rest():
            yield line

    async def aread(self, body_max: int = _WHOLE_MAX) -> bytes:
        """What is left of the body, whole. ValueError when it is more than `body_max` bytes."""
        pieces, size = [], 0
        async for piece in self.aiter_bytes():
            size += len(piece)
            if size > body_max:
                self.close()
                raise ValueError(f"the answer of {self.service} is larger than {body_max} bytes")
            pieces.append(piece)
        return b"".join(pieces)

    def close(self) -> None:
        """Done with it. What has not come by now is not waited for; the connection is closed with it."""
        if self._is_open:
            self._is_open = False
            self._response.close()  # one that was read to its end has let go of its connection already
            self._target.leave(monotonic())


class Lines:
    """Lines out of pieces of text."""

    def __init__(self) -> None:
        self._rest = ""

    def feed(self, text: str) -> list[str]:
        """The lines that are whole with this piece."""
        *lines, self._rest = (self._rest + text).split("\n")
        if len(self._rest) > _LINE_MAX:
            raise ValueError(f"a line of more than {_LINE_MAX} characters")
        return [line.removesuffix("\r") for line in lines]

    def rest(self) -> list[str]:
        """A last line without an end."""
        return [self._rest.removesuffix("\r")] if self._rest else []
