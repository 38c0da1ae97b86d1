"""Limits of an HTTP client: one server alone, and no answer without an end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2

LARGEST = 16_000_000
"""Bytes of an answer's body."""
WHOLE = 4
"""A body may take so many times the timeout, which alone is about silence."""


class OtherServer(httpx2.TransportError):
    """The server sends requests, and so the prompts, to another host."""


class TooLong(httpx2.TransportError):
    """The answer is too large, or does not end."""


def limiting_hooks(address: str, timeout: float) -> dict[str, list[Callable[..., None]]]:
    """Return hooks of an httpx2 client that stays with one server and gives bodies a limit in bytes and in seconds.

    Hooks, as a transport of our own would leave out the proxies that the environment names.

    Args:
        address: The server's; a redirect to another host raises :class:`OtherServer`.
        timeout: Seconds that the server may be silent.
    """
    host = httpx2.URL(address).host

    def check_host(request: httpx2.Request) -> None:
        if request.url.host != host:
            raise OtherServer(f"the server sends the request on to {request.url.host}")

    def limit(response: httpx2.Response) -> None:
        response.stream = _BoundedStream(response.stream, time.monotonic() + WHOLE * timeout)

    return {"request": [check_host], "response": [limit]}


class _BoundedStream(httpx2.SyncByteStream):
    def __init__(self, stream: Any, deadline: float) -> None:
        self._stream, self._deadline = stream, deadline

    def __iter__(self) -> Iterator[bytes]:
        read = 0
        for chunk in self._stream:
            read += len(chunk)
            if read > LARGEST:
                raise TooLong(f"the answer has more than {LARGEST:,} bytes")
            if time.monotonic() > self._deadline:
                raise TooLong("the answer does not end")
            yield chunk

    def close(self) -> None:
        self._stream.close()
