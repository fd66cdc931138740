"""Interim socket client, until edge.runtime_api lands."""

import csv, io, socket  # noqa: E401

class Unreachable(Exception):
    pass

class Api:
    def __init__(self, path, timeout_s):
        self.path, self.timeout_s = path, timeout_s
    def run(self, command):
        try:
            with socket.socket(socket.AF_UNIX) as s:
                s.settimeout(self.timeout_s)
                s.connect(self.path)
                s.sendall(command.encode() + b"\n")
                out = b""
                while True:
                    d = s.recv(65536)
                    if not d: break
                    out += d
                return out.decode().strip()
        except OSError as e:
            raise Unreachable(str(e)) from e
    def stat(self):
        text = self.run("show stat").lstrip("# ")
        return list(csv.DictReader(io.StringIO(text)))
