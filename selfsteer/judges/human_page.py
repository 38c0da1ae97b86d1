"""A person judges on a local web page: one page, plain forms, a server from the standard library.

The server listens on this machine only. Others who can reach the port (another user, another web site in the same
browser) are kept out by a random path in the address, a random token in the form and a check of the Host header.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import secrets
import sys
import threading
from collections.abc import Callable
from functools import cache, partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from jinja2 import Template

from selfsteer.errors import InputError, SelfsteerError
from selfsteer.judges.human import KEYS, AnnotationSession
from selfsteer.sanitize import escape_controls
from selfsteer.templates import environment_of

STOP = "stop"
_HOST = "127.0.0.1"
_LARGEST_FORM = 4096  # bytes; ours have about 150
_SAY = partial(print, flush=True)
_TEMPLATES = Path(__file__).parent / "templates"
_OTHER = (
    "That button belonged to another presentation (a second tab, or a double click), so it did nothing. "
    "This is the open one."
)
_ENDING = 'The page\'s "Stop for now" ends the session at any time; every answer is kept as soon as it is given.'
_ELSEWHERE = "There is nothing at this address. Open the one that the terminal shows.\n"


def ask_on_page(session: AnnotationSession, *, port: int = 0, say: Callable[[str], None] = _SAY) -> None:
    """Serve the session as a web page until the person stops it there.

    Args:
        port: Port on 127.0.0.1; 0 takes any free one.
        say: Prints the page's address, and at the end a sentence on the answers kept.

    Raises:
        InputError: The port can't be used.
        StorageError: An answer could not be kept.
        KeyboardInterrupt: Ctrl-C, after a sentence on the answers kept: every answer given.
    """
    interrupt = None
    with _listen(session, port) as server:
        say(f"Judge at {server.address}\n{_ENDING}")
        try:
            server.serve_forever(poll_interval=0.1)  # Ctrl-C and the stop button act within that time
        except KeyboardInterrupt as error:
            interrupt = error
            say("")
        with server.lock:  # let an answer that is being written reach the disk
            server.stopped = True
    if server.failure:
        raise server.failure
    say(session.so_far())
    if interrupt:
        raise interrupt


class _Server(ThreadingHTTPServer):
    """The session, the secrets of its page, and the lock under which requests touch it."""

    def __init__(self, session: AnnotationSession, port: int) -> None:
        self.session = session
        self.lock = threading.Lock()
        self.path = f"/{secrets.token_urlsafe(12)}/"  # other users of this machine can reach the port
        self.token = secrets.token_urlsafe(24)  # another site in the same browser can send a form here
        self.stopped = False
        self.failure: SelfsteerError | None = None
        super().__init__((_HOST, port), _Handler)

    @property
    def hosts(self) -> list[str]:
        """The server's names in a browser on this machine."""
        return [f"{name}:{self.server_port}" for name in (_HOST, "localhost")]

    @property
    def address(self) -> str:
        return f"http://{self.hosts[0]}{self.path}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a browser that closed the connection before its page was sent."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 30  # seconds; browsers open connections before they need them

    def do_GET(self) -> None:
        """Show the open presentation."""
        if self._is_ours():
            with self.server.lock:
                page = self._page()
            self._send(HTTPStatus.OK, page)

    def do_POST(self) -> None:
        """Carry out a button, then redirect the browser to the open presentation, so that reloading repeats nothing."""
        length = self.headers.get("Content-Length", "")
        sent = self.rfile.read(int(length)) if length.isdecimal() and int(length) <= _LARGEST_FORM else b""
        fields = parse_qs(sent.decode(errors="replace"), keep_blank_values=True)
        form = {name: values[0] for name, values in fields.items()}
        if not self._is_ours():
            return
        if not secrets.compare_digest(form.get("token", "").encode(), self.server.token.encode()):
            self._send(HTTPStatus.FORBIDDEN, "This form is not from this session's page. Reload the page.\n", "plain")
            return
        with self.server.lock:
            status, page = self._act(form)
        try:
            self._send(status, page)
        finally:  # also where the browser went away meanwhile
            if self.server.stopped:
                self.server.shutdown()

    def _act(self, form: dict[str, str]) -> tuple[HTTPStatus, str]:
        """Carry out a form and return the status and the page to answer with, "" to redirect the browser."""
        session, do = self.server.session, form.get("do", "")
        if self.server.stopped or do == STOP:
            self.server.stopped = True
            return HTTPStatus.OK, self._page()
        if form.get("shown") != _name(session):
            return HTTPStatus.CONFLICT, self._page(_OTHER)
        if do not in KEYS:
            return HTTPStatus.BAD_REQUEST, self._page("That button is unknown; nothing was kept.")
        try:
            session.act(do)
        except SelfsteerError as error:
            self.server.failure, self.server.stopped = error, True
            return HTTPStatus.INTERNAL_SERVER_ERROR, self._page(escape_controls(str(error)))
        return HTTPStatus.SEE_OTHER, ""

    def _page(self, notice: str = "") -> str:
        server = self.server
        return _template().render(
            session=server.session,
            shown=None if server.stopped else server.session.open,
            name=_name(server.session),
            stopped=server.stopped,
            failed=server.failure is not None,
            notice=notice,
            token=server.token,
        )

    def _is_ours(self) -> bool:
        """Return whether a request is for this page; any other is answered here."""
        # A foreign host name in the request means that another site had the browser resolve its name to this machine.
        if self.headers.get("Host") not in self.server.hosts:
            self._send(HTTPStatus.MISDIRECTED_REQUEST, _ELSEWHERE, "plain")
        elif self.path != self.server.path:
            self._send(HTTPStatus.NOT_FOUND, _ELSEWHERE, "plain")
        else:
            return True
        return False

    def _send(self, status: HTTPStatus, text: str, kind: str = "html") -> None:
        """Send a page, or redirect the browser to it with SEE_OTHER."""
        body = text.encode()
        headers = {
            "Content-Type": f"text/{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
            "Content-Security-Policy": _policy(),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }
        if status == HTTPStatus.SEE_OTHER:
            headers["Location"] = self.server.path
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        """Return the value of the Server header, without Python's version."""
        return "selfsteer"

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the terminal shows the session's address and its end."""


def _listen(session: AnnotationSession, port: int) -> _Server:
    try:
        return _Server(session, port)
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        why = error.strerror if isinstance(error, OSError) else "ports are 0 to 65535"
        do = "choose another port; 0 takes any free one"
        raise InputError(f"can't listen on port {port}: {why}", where=_HOST, do=do) from error


def _name(session: AnnotationSession) -> str:
    """Return the id of the open presentation, "" where all are answered."""
    return session.open.id if session.open else ""


@cache
def _template() -> Template:
    environment = environment_of(_TEMPLATES, escape=True)
    environment.globals |= {name: (_TEMPLATES / f"human.{name}").read_text(encoding="utf-8") for name in ("css", "js")}
    return environment.get_template("human.html.jinja")


@cache
def _policy() -> str:
    """Return the page's content security policy: its own style, its own script, forms to itself and nothing else."""
    texts = [str(_template().environment.globals[name]) for name in ("css", "js")]
    style, script = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
    return (
        f"default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
