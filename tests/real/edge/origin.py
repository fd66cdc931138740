"""A small replica for tests: HTTP/1.1 on a unix socket, every request written down before it is answered.

usage: python origin.py SOCKET NAME RECORD_FILE

What it answers depends on the path:
    /slow/MS            after MS milliseconds
    /hold/…             as soon as the file RECORD_FILE.release exists
    /break/MS           nothing: the connection is closed after MS milliseconds
    /stream/GAP_MS      two events, GAP_MS milliseconds apart (no Content-Length)
    /upgrade            101, then echoes bytes
    /status/CODE        that status
    anything else       JSON of what arrived
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys

import uvloop


async def read_body(reader: asyncio.StreamReader, headers: list[tuple[str, str]]) -> bytes:
    fields = {name.lower(): value for name, value in headers}
    if "chunked" in fields.get("transfer-encoding", ""):
        body = b""
        while size := int((await reader.readline()).split(b";")[0], 16):
            body += await reader.readexactly(size)
            await reader.readline()
        while (await reader.readline()).strip():
            pass
        return body
    return await reader.readexactly(int(fields.get("content-length", "0")))


class Origin:
    def __init__(self, name: str, record: int, release: str) -> None:
        self.name = name
        self.record = record
        self.release = release

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self.answer(reader, writer):
                pass
        writer.close()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        method, target, _ = first.split(" ")
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        if target == "/-headway/alive":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            return True
        body = await read_body(reader, headers)
        arrived = {"replica": self.name, "method": method, "target": target, "headers": headers, "body": len(body)}
        os.write(self.record, json.dumps(arrived).encode() + b"\n")
        kind, _, number = target.partition("?")[0].strip("/").partition("/")
        amount = int(number) if number.isdigit() else 0
        if kind == "break":
            await asyncio.sleep(amount / 1000)
            return False
        if kind == "slow":
            await asyncio.sleep(amount / 1000)
        while kind == "hold" and not os.path.exists(self.release):
            await asyncio.sleep(0.005)
        if kind == "upgrade":
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
            while data := await reader.read(4096):
                writer.write(data)
            return False
        if kind == "stream":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\ndata: 1\n\n")
            await asyncio.sleep(amount / 1000)
            writer.write(b"data: 2\n\n")
            await writer.drain()
            return False
        status = amount if kind == "status" else 200
        text = b"" if method == "HEAD" else json.dumps(arrived).encode()
        writer.write(
            f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n".encode()
            + text
        )
        await writer.drain()
        return True


async def main(path: str, name: str, record_file: str) -> None:
    record = os.open(record_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    server = await asyncio.start_unix_server(Origin(name, record, f"{record_file}.release").serve, path, backlog=4096)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(main(*sys.argv[1:]))
