"""A WebSocket to another service."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any

from headway.calls.client.target import Target
from headway.calls.client.wire import FAULTS, Socket, ending_of, message_of, reason_of
from headway.errors import SocketClosed, Unavailable


class WebSocket:
    """Messages both ways, texts and bytes. It may stay open for as long as both sides like."""

    def __init__(self, target: Target, socket: Socket, wait_s: float) -> None:
        self.service = target.name
        self._target = target
        self._socket = socket
        self._wait_s = wait_s  # for a message to be sent
        self._is_open = True
        self._ending: tuple[int, str] | None = None

    @property
    def subprotocol(self) -> str | None:
        """The one that the service chose."""
        return self._socket.protocol

    async def send(self, message: str | bytes) -> None:
        """Send a text, or bytes. SocketClosed; Unavailable when the other side takes nothing."""
        try:
            async with asyncio.timeout(self._wait_s):
                if isinstance(message, str):
                    await self._socket.send_str(message)
                else:
                    await self._socket.send_bytes(message)
        except TimeoutError:
            raise Unavailable(
                self.service, f"the WebSocket took nothing for {self._wait_s:.3g} s", hint="Is its other side reading?"
            ) from None
        except FAULTS as fault:
            raise SocketClosed(self.service, self._socket.close_code or 1006, reason_of(fault)) from fault

    async def send_json(self, value: Any) -> None:
        """Send a value as a JSON text."""
        await self.send(json.dumps(value, ensure_ascii=False, separators=(",", ":")))

    async def receive(self) -> str | bytes:
        """The next message, waited for as long as it takes. SocketClosed when none comes any more."""
        came = await self._socket.receive()
        message = message_of(came)
        if message is None:
            if self._ending is None:
                self._ending = ending_of(came, self._socket)
            raise SocketClosed(self.service, *self._ending)
        return message

    async def receive_text(self) -> str:
        """The next message, as text."""
        message = await self.receive()
        return message if isinstance(message, str) else message.decode()

    async def receive_bytes(self) -> bytes:
        """The next message, as bytes."""
        message = await self.receive()
        return message.encode() if isinstance(message, str) else message

    async def receive_json(self) -> Any:
        """The next message, read as JSON."""
        return json.loads(await self.receive())

    async def __aiter__(self) -> AsyncIterator[str | bytes]:
        try:
            while True:
                yield await self.receive()
        except SocketClosed:
            return

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """End it, telling the other side why."""
        if self._is_open:
            self._is_open = False
            try:
                await self._socket.close(code=code, message=reason.encode())
            finally:
                self._target.leave(monotonic())
