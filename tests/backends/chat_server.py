"""A small chat-completions server on loopback that answers as a test scripts it."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from selfsteer.backends.base import Sampling
from selfsteer.backends.scripted import ScriptedBackend


@dataclass(frozen=True)
class Reply:
    """What goes over the wire after ``delay`` seconds: JSON, or bytes as they are.

    A function as the body is given the connection and sends everything itself, the head included; the connection is
    closed behind it.
    """

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0


Answer = Callable[[dict[str, Any], int], Reply]
"""From a request's body and how many came before it to the reply."""


def completion(text: str | None, finish: str | None = "stop", **more: Any) -> Reply:
    """Return a well-formed answer."""
    message = {"role": "assistant", "content": text}
    return Reply({"object": "chat.completion", "choices": [{"message": message, "finish_reason": finish, **more}]})


def with_logprobs(top: dict[str, float]) -> Reply:
    """Return an answer with the log-probs of one position; the first token is the sampled one."""
    entries = [{"token": token, "logprob": logprob, "bytes": None} for token, logprob in top.items()]
    content = [{**entries[0], "top_logprobs": entries}] if entries else []
    return completion(next(iter(top), ""), logprobs={"content": content})


def metered(reply: Reply, prompt: int, completion: int) -> Reply:
    """Return an answer that says what it has used up, in tokens."""
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return dataclasses.replace(reply, body={**reply.body, "usage": usage})


def failure(status: int, message: str, code: Any = None, **headers: str) -> Reply:
    """Return an error in OpenAI's form."""
    return Reply({"error": {"message": message, "type": "x", "code": code}}, status, headers)


HANG_UP = Reply(b"", status=0)
"""The connection is closed without an answer."""


def scripted(request: dict[str, Any], count: int) -> Reply:
    """Answer with what :class:`ScriptedBackend` writes."""
    sampling = Sampling(request["max_tokens"], request["temperature"], request.get("top_p", 1.0))
    (written,) = ScriptedBackend().generate([request["messages"]], sampling, seed=request["seed"])
    return completion(written.text, written.finish)


class ChatServer:
    """Serves until closed. ``requests`` holds (path, headers, body); ``most`` the requests that were under way at once.

    ``connections`` are open now.

    Args:
        answer: Its script.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer, self.lock = answer, threading.Lock()
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.under_way = self.most = self.connections = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        """What a client takes as its base_url."""
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """The bodies of the requests."""
        return [body for _, _, body in self.requests]

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    @contextmanager
    def counted(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> Iterator[int]:
        """Note one request; yields how many came before it."""
        with self.lock:
            self.requests.append((path, headers, body))
            number = len(self.requests) - 1
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        yield number
        with self.lock:
            self.under_way -= 1


def _handler(server: ChatServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16  # head and body leave as one packet: two would wait for each other

        def handle(self) -> None:
            with server.lock:
                server.connections += 1
            super().handle()
            with server.lock:
                server.connections -= 1

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            headers = {name.lower(): value for name, value in self.headers.items()}
            with server.counted(self.path, headers, body) as number:
                reply = server.answer(body, number)
                time.sleep(reply.delay)
            self._send(reply if self.path == "/v1/chat/completions" else failure(404, "Not Found"))

        def _send(self, reply: Reply) -> None:
            if reply is HANG_UP or callable(reply.body):
                self.close_connection = True
                if callable(reply.body):
                    with suppress(OSError):  # the client has given up waiting
                        reply.body(self.connection)
                return
            data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            try:
                self.send_response(reply.status)
                for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client has given up waiting

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    return Handler
