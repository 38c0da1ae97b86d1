"""A server of the test's own, and an environment that names no other."""

from __future__ import annotations

import pytest

from tests.backends.chat_server import ChatServer


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def serve():
    """Return a function that starts a server with a script; a list is gone through request by request."""
    servers = []

    def start(script) -> ChatServer:
        answer = script if callable(script) else lambda body, count: script[min(count, len(script) - 1)]
        servers.append(ChatServer(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
