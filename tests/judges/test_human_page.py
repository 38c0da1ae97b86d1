"""A person judges on the local page: whole sessions over HTTP, and what the server refuses."""

from __future__ import annotations

import base64
import hashlib
import html
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, RemoteDisconnected
from pathlib import Path
from queue import Queue
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from selfsteer.errors import InputError, StorageError
from selfsteer.judges import AnswerCache, Judgement, Pair
from selfsteer.judges.human import AnnotationSession, HumanJudge, collect
from selfsteer.judges.human_page import ask_on_page
from tests.chat_templates import user
from tests.judges.human_example import pair, pairs


@dataclass
class Reply:
    status: int
    headers: Any
    text: str

    def field(self, name: str) -> str:
        """Return the value of a hidden field."""
        found = re.search(rf'name="{name}" value="([^"]*)"', self.text)
        assert found
        return found[1]

    def texts(self) -> list[str]:
        return [
            html.unescape(text) for text in re.findall(r'<div class="text" dir="auto">(.*?)</div>', self.text, re.S)
        ]


class Browser:
    """Sends what a browser would."""

    def __init__(self, address: str) -> None:
        self.host, self.path = urlsplit(address).netloc, urlsplit(address).path
        self.ended = False  # whether the last reply was a page with no button left

    def ask(self, method: str = "GET", *, path: str = "", host: str = "", **fields: str) -> Reply:
        connection = HTTPConnection(self.host, timeout=10)
        headers = {"Host": host or self.host, "Content-Type": "application/x-www-form-urlencoded"}
        connection.request(method, path or self.path, urlencode(fields) if fields else None, headers)
        response = connection.getresponse()
        reply = Reply(response.status, response.headers, response.read().decode())
        connection.close()
        return reply

    def press(self, do: str, page: Reply | None = None, **changes: str) -> Reply:
        """Press a button of a page (the one open now unless given) and follow where it leads."""
        page = page or self.ask()
        fields = {"token": page.field("token"), "shown": page.field("shown"), "do": do}
        reply = self.ask("POST", **(fields | changes))
        self.ended = "<button" not in reply.text and "<html" in reply.text
        return self.ask() if reply.status == 303 else reply


class Session:
    """A sitting served in a thread."""

    def __init__(self, wanted: list[Pair], path: Path | None) -> None:
        self.said: Queue[str] = Queue()
        self.found: list[Judgement] = []
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._serve, args=(wanted, AnswerCache(path)), daemon=True)
        self.thread.start()
        self.browser = Browser(self.said.get(timeout=10).split()[2])

    def _serve(self, wanted: list[Pair], cache: AnswerCache) -> None:
        try:
            self.found = collect(
                HumanJudge("Ann"), wanted, cache, lambda reading: ask_on_page(reading, say=self.said.put)
            )
        except StorageError as error:
            self.error = error

    def wait(self) -> None:
        self.thread.join(timeout=10)
        assert not self.thread.is_alive()


@contextmanager
def serve(wanted: list[Pair], path: Path | None = None) -> Iterator[Session]:
    session = Session(wanted, path)
    try:
        yield session
    finally:
        if not session.browser.ended:
            session.browser.press("stop")
        session.wait()


def test_a_whole_session_to_its_end():
    with serve(pairs(2)) as session:
        page = session.browser.ask()
        for number in range(1, 5):
            assert f"{number} of 4</p>" in page.text
            assert "<h1>Which response is better?</h1>" in page.text
            question, *responses = page.texts()
            assert question.startswith("Question")
            page = session.browser.press("1" if "longer" in responses[0] else "2")
        assert "4 of 4 answered; 2 of 2 pairs are complete" in page.text
        page = session.browser.press("u")
        assert "You answered this one before" in page.text
        assert "All answered" in session.browser.press("=").text
        assert "All done" in session.browser.press("stop").text
    session.wait()
    assert sorted(judgement.outcome for judgement in session.found) == ["consistent", "tie"]
    assert "4 of 4 answered" in session.said.get(timeout=10)


def test_stopping_keeps_everything_and_the_next_session_goes_on(tmp_path):
    path = tmp_path / "answers.jsonl"
    with serve(pairs(2), path) as session:
        session.browser.press("1")
        skipped = session.browser.ask().field("shown")
        assert session.browser.press("s").field("shown") != skipped
        page = session.browser.press("stop")
        assert page.status == 200
        assert "Stopped for now" in page.text
        assert "1 of 4 answered; 0 of 2 pairs are complete" in page.text
        session.wait()
    with pytest.raises(ConnectionRefusedError):
        session.browser.ask()
    with serve(pairs(2), path) as session:
        assert session.browser.ask().field("shown") == skipped
        assert "2 of 4</p>" in session.browser.ask().text
        for key in "1=2":
            session.browser.press(key)
    assert len(session.found) == 2


def test_an_answer_leads_on_so_that_loading_again_repeats_nothing():
    with serve(pairs(2)) as session:
        page = session.browser.ask()
        reply = session.browser.ask("POST", token=page.field("token"), shown=page.field("shown"), do="1")
        assert (reply.status, reply.headers["Location"]) == (303, session.browser.path)
        assert "2 of 4</p>" in session.browser.ask().text
        assert "2 of 4</p>" in session.browser.ask().text


def test_a_form_without_the_token_changes_nothing():
    with serve(pairs(2)) as session:
        for token in ("", "wrong", "é"):
            reply = session.browser.press("1", token=token)
            assert reply.status == 403
            assert session.browser.path not in reply.text
            assert session.browser.press("stop", token=token).status == 403
        assert "1 of 4</p>" in session.browser.ask().text


def test_a_button_of_another_presentation_does_nothing_and_says_so():
    with serve(pairs(2)) as session:
        stale = session.browser.ask()
        session.browser.press("1")
        for do in ("2", "s", "u"):
            reply = session.browser.press(do, stale)
            assert reply.status == 409
            assert "belonged to another presentation" in reply.text
            assert "2 of 4</p>" in reply.text
            assert reply.field("shown") == session.browser.ask().field("shown") != stale.field("shown")
        assert "2 of 4</p>" in session.browser.ask().text


def test_an_unknown_button_and_a_form_too_large_do_nothing():
    with serve(pairs(2)) as session:
        assert session.browser.press("3").status == 400
        assert session.browser.press("1", more="x" * 5000).status == 403
        assert "1 of 4</p>" in session.browser.ask().text


def test_other_hosts_and_other_addresses_are_refused_and_learn_nothing():
    with serve(pairs(2)) as session:
        port = session.browser.host.split(":")[1]
        token = session.browser.ask().field("token")
        shown = session.browser.ask().field("shown")
        assert session.browser.ask(host=f"localhost:{port}").status == 200
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", "localhost"):
            refused = [
                session.browser.ask(host=host),
                session.browser.ask("POST", host=host, token=token, shown=shown, do="1"),
            ]
            assert [reply.status for reply in refused] == [421, 421]
            assert not any(session.browser.path in reply.text or "Question" in reply.text for reply in refused)
        for path in ("/", "/favicon.ico", session.browser.path + "more"):
            assert session.browser.ask(path=path).status == 404
            assert session.browser.ask("POST", path=path, token=token, shown=shown, do="1").status == 404
        assert "1 of 4</p>" in session.browser.ask().text


def test_texts_are_escaped_and_control_characters_visible():
    hostile = '</div><script>alert("1")</script>\x1b[2J {{ 7 * 7 }}'
    wanted = pair(1, prompt=user(hostile), first=hostile, second="b & c <b>", criterion=hostile)
    with serve([wanted]) as session:
        page = session.browser.ask()
        assert page.text.count("<script>") == 1
        assert "&lt;/div&gt;&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt;␛[2J {{ 7 * 7 }}" in page.text
        shown = hostile.replace("\x1b", "␛")
        assert page.texts()[0] == shown
        assert set(page.texts()[1:]) == {shown, "b & c <b>"}
        assert page.text.count("alert") == 3


def test_all_turns_the_criterion_and_a_cut_are_shown():
    turns = [
        {"role": "system", "content": "You help."},
        *user("Hi"),
        {"role": "assistant", "content": "Yes?"},
        *user("Sum"),
    ]
    with serve([pair(1, prompt=turns, criterion="brevity", first_finish="length", second="")]) as session:
        page = session.browser.ask()
        assert page.texts() == ["You help.", "Hi", "Yes?", "Sum", "A longer answer to question 1."]
        assert re.findall(r'<h2 dir="auto">(.*?)</h2>', page.text) == ["System", "User", "Assistant", "User"]
        assert "Judge by: <bdi>brevity</bdi>" in page.text
        assert page.text.count("cut off at the length limit") == 1
        assert page.text.count("(empty)") == 1


def test_nothing_on_the_page_tells_the_responses_apart():
    with serve([pair(1, label=1)]) as session:
        for key in "12":
            assert "secret" not in session.browser.ask().text
            session.browser.press(key)


def test_the_page_needs_nothing_from_outside_and_allows_its_own_style_and_script_only():
    with serve(pairs(1)) as session:
        page = session.browser.ask()
        assert not re.search(r"https?://|src=|<link|style=|onclick", page.text)
        policy = page.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none';")
        for tag, directive in (("style", "style-src"), ("script", "script-src")):
            (own,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page.text, re.S)
            digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
            assert f"{directive} 'sha256-{digest}';" in policy
        assert page.headers["X-Content-Type-Options"] == "nosniff"
        assert page.headers["Cache-Control"] == "no-store"


def test_an_answer_that_can_not_be_kept_ends_the_session_and_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    cache_path = tmp_path / "file" / "answers.jsonl"
    with serve(pairs(1), cache_path) as session:
        reply = session.browser.press("1")
        assert reply.status == 500
        assert "could not be kept" in reply.text
        session.wait()
    assert isinstance(session.error, StorageError)


def test_a_browser_that_sends_nonsense_or_goes_away_disturbs_nobody(capfd):
    with serve(pairs(1)) as session:
        host, port = session.browser.host.split(":")
        for sent in (b"", b"\x16\x03\x01\x02", b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n", b"GET / HTTP/1.1\r\n"):
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(sent)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close by a reset
        assert session.browser.ask().status == 200
    assert "Traceback" not in capfd.readouterr().err


def test_a_port_that_can_not_be_used_is_told():
    reading = AnnotationSession(HumanJudge("Ann"), pairs(1), AnswerCache(None))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="choose another port"):
            ask_on_page(reading, port=taken.getsockname()[1])
    with pytest.raises(InputError, match="are 0 to 65535"):
        ask_on_page(reading, port=70000)


def test_an_interrupt_says_what_is_kept_and_passes_on(monkeypatch):
    reading = AnnotationSession(HumanJudge("Ann"), pairs(1), AnswerCache(None))
    said: list[str] = []

    def interrupted(self, poll_interval=0.5):
        raise KeyboardInterrupt

    monkeypatch.setattr("selfsteer.judges.human_page._Server.serve_forever", interrupted)
    reading.act("1")
    with pytest.raises(KeyboardInterrupt):
        ask_on_page(reading, say=said.append)
    assert '"Stop for now" ends the session' in said[0]
    assert said[-1].startswith("1 of 2 answered")


def test_an_interrupt_does_not_hide_that_an_answer_could_not_be_kept(monkeypatch):
    reading = AnnotationSession(HumanJudge("Ann"), pairs(1), AnswerCache(None))

    def interrupted(self, poll_interval=0.5):
        self.failure = StorageError("the last answer could not be kept")
        raise KeyboardInterrupt

    monkeypatch.setattr("selfsteer.judges.human_page._Server.serve_forever", interrupted)
    with pytest.raises(StorageError):
        ask_on_page(reading, say=lambda text: None)


def test_stopping_ends_the_server_though_the_browser_went_away(monkeypatch):
    def gone(self, status, page):
        raise ConnectionResetError

    with serve(pairs(1)) as session:
        page = session.browser.ask()
        monkeypatch.setattr("selfsteer.judges.human_page._Handler._send", gone)
        with pytest.raises(RemoteDisconnected):
            session.browser.press("stop", page)
        session.browser.ended = True
