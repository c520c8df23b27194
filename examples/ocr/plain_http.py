"""The same model as people serve it without Ringmaster: HTTP on loopback, the frame as the body of a POST.

python -m examples.ocr.plain_http PORT
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np

from .reader import Reader, threads_from_environment


class Handler(BaseHTTPRequestHandler):
    """Answers ``POST /read`` with X-Shape: height,width,3."""

    protocol_version = "HTTP/1.1"  # the connection stays
    reader: Reader

    def do_POST(self) -> None:
        """Read the body's text."""
        shape = tuple(int(n) for n in self.headers["X-Shape"].split(","))
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = json.dumps({"lines": self.reader.read(np.frombuffer(body, np.uint8).reshape(shape))}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main() -> None:
    """Serve until killed; says "ready" once it listens."""
    Handler.reader = Reader(threads_from_environment())
    with HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler) as server:
        print("ready", server.server_port, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
