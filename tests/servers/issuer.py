"""An issuer of tokens over HTTPS: a JWKS on a loopback port, which can be killed, hang, lie and rotate."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from joserfc import jwt
from joserfc.jwk import ECKey


class Issuer:
    """Its keys, and how it answers: `mode` is good, garbage, huge, hang, redirect or error."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self.mode = "good"
        self.asked = 0
        self.keys: list[ECKey] = []
        self.rotate()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._server: ThreadingHTTPServer | None = None
        self._ended = threading.Event()
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}/jwks.json"

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped."""
        return self._server is not None

    def rotate(self, *, keep: bool = False) -> None:
        """Sign with a new key from now on."""
        fresh = ECKey.generate_key("P-256", {"kid": f"key-{time.monotonic_ns()}"}, private=True)
        self.keys = [fresh, *(self.keys if keep else ())]

    def token(self, subject: str = "alice", **claims: Any) -> str:
        now = int(time.time())
        claims = {"sub": subject, "tenant": "demo", "iat": now, "exp": now + 600, **claims}
        return jwt.encode(
            {"alg": "ES256", "kid": self.keys[0].kid}, claims, self.keys[0], algorithms=["ES256"]
        )

    def start(self) -> None:
        """Answer on the port of before, if there was one."""
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with contextlib.suppress(OSError):
                    issuer._answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                pass  # clients that hang up in the handshake

        self._ended.clear()
        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        self._server.socket = self._context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Be down: nothing listens on the port."""
        self._ended.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        self.asked += 1
        if self.mode == "hang":
            self._ended.wait(60)
            return
        if self.mode == "error":
            request.send_error(503)
            return
        if self.mode == "redirect":
            request.send_response(302)
            request.send_header("Location", "http://169.254.169.254/latest/meta-data")
            request.end_headers()
            return
        keys = [key.as_dict(private=False) for key in self.keys]
        body = {
            "good": json.dumps({"keys": keys}).encode(),
            "garbage": b"<html>" + bytes(range(256)),
            "huge": b'{"keys": [' + b" " * 10_000_000,
        }[self.mode]
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)


__all__ = ["Issuer"]
