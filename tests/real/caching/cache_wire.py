"""A wire to a real server that can be slow, thin, deaf or cut, for one kind of the client's connections or for all."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager

CHANGES, COMMANDS = b"headway-changes", b"headway-commands"
_CHUNK_BYTES = 65_536


class Wire:
    """What happens to connections by their kind (`CHANGES`, `COMMANDS`); set at any time, from the test's thread."""

    def __init__(self, server_port: int, tls: ssl.SSLContext | None) -> None:
        self._server_port = server_port
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._open: dict[asyncio.StreamWriter, bytes] = {}
        self.port = 0
        self.delay_s = 0.0  # of each answer
        self.bytes_per_s = 0.0  # each way; 0: as they come
        self.refused: set[bytes] = set()  # kinds whose new connections are cut at once
        self.deaf: set[bytes] = set()  # kinds of which nothing goes through any more

    def cut(self, kind: bytes) -> int:
        """End the connections of a kind; how many there were."""
        return asyncio.run_coroutine_threadsafe(self._cut(kind), self._loop).result(30)

    async def _cut(self, kind: bytes) -> int:
        found = [writer for writer, its in self._open.items() if its == kind]
        for writer in found:
            writer.transport.abort()
        return len(found)

    @contextmanager
    def running(self) -> Iterator[Wire]:
        thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        thread.start()
        serving = asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        server = asyncio.run_coroutine_threadsafe(serving, self._loop).result(30)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(self._end(server), self._loop).result(30)
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join(30)
            self._loop.close()

    async def _end(self, server: asyncio.Server) -> None:
        server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = None
        try:
            self._open[writer] = b""
            answers, there = await asyncio.open_connection("127.0.0.1", self._server_port)
            ways = [asyncio.create_task(self._out(reader, writer, there))]
            ways.append(asyncio.create_task(self._back(answers, writer)))
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # the test is over
        finally:
            self._open.pop(writer, None)
            for each in (writer, there):
                if each is not None:
                    each.close()

    async def _out(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, there: asyncio.StreamWriter
    ) -> None:
        due = 0.0
        while data := await reader.read(_CHUNK_BYTES):
            if not self._open[writer]:  # its name comes soon after its greeting
                self._open[writer] = next((kind for kind in (CHANGES, COMMANDS) if kind in data), b"")
            if self._open[writer] in self.refused:
                return
            due = await self._pace(data, due)
            if self._open[writer] not in self.deaf:
                there.write(data)
                await there.drain()

    async def _pace(self, data: bytes, due: float) -> float:
        """Wait until the line has carried it, which carried something until `due`; the moment when it has."""
        now = self._loop.time()
        if not self.bytes_per_s:
            return now
        due = max(due, now) + len(data) / self.bytes_per_s
        if due - now > 0.01:
            await asyncio.sleep(due - now)
        return due

    async def _back(self, answers: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Each answer is late by the delay, and none waits for the delay of another."""
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        telling = asyncio.create_task(self._tell(on_the_way, writer))
        try:
            while data := await answers.read(_CHUNK_BYTES):
                on_the_way.put_nowait((self._loop.time() + self.delay_s, data))
            await on_the_way.join()
        finally:
            telling.cancel()

    async def _tell(self, on_the_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        carried = 0.0
        while True:
            due, data = await on_the_way.get()
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            carried = await self._pace(data, carried)
            if self._open[writer] not in self.deaf:
                writer.write(data)
                await writer.drain()
            on_the_way.task_done()


@contextmanager
def wire_to(server_port: int, tls: ssl.SSLContext | None = None) -> Iterator[Wire]:
    """A wire to the server on this port of the loopback."""
    with Wire(server_port, tls).running() as wire:
        yield wire
