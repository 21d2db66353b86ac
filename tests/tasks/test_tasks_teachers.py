"""Teachers: what is sent, what is read, what happens when an endpoint is busy or refuses."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from holdfast.data.records import ImageRef, Record, say
from holdfast.data.styles import Question
from holdfast.errors import RunError, UsageError
from holdfast.tasks import teachers

RECORD = Record((say("user", "What?"), say("assistant", "red")), id="1")
ASKED = Question("What?", "red")


@pytest.fixture
def endpoint(monkeypatch):
    """A server that answers with what ``answers`` holds, one by one, and notes the requests."""
    answers, seen = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.append((self.path, self.headers.get("Authorization"), json.loads(body)))
            code, text = answers.pop(0)
            self.send_response(code)
            if code == 302:
                self.send_header("Location", "/elsewhere")
            self.end_headers()
            reply = {"choices": [{"message": {"content": text}}]}
            self.wfile.write(json.dumps(reply).encode())

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(teachers.time, "sleep", lambda seconds: None)
    yield f"http://127.0.0.1:{server.server_port}/v1", answers, seen
    server.shutdown()
    server.server_close()


def test_what_an_endpoint_is_asked(endpoint, monkeypatch):
    url, answers, seen = endpoint
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    answers += [(200, 'Sure: {"explanation": "It is red."}'), (200, "no json")]
    pictured = Record(RECORD.messages, (ImageRef(data=b"png"),), "2")
    write = teachers.endpoint_teacher(url, "some-model")
    assert write([RECORD, pictured], [ASKED, ASKED], "brief") == ["It is red.", None]
    (path, key, first), (_, _, second) = seen
    assert path == "/v1/chat/completions"
    assert key == "Bearer sk-secret"
    assert "about 20 words" in first["messages"][0]["content"]
    assert second["messages"][0]["content"][0]["image_url"]["url"].startswith(
        "data:image/png;base64"
    )
    assert "sk-secret" not in repr(write)


def test_a_busy_endpoint_is_asked_again_and_one_that_refuses_is_not(endpoint, monkeypatch):
    url, answers, seen = endpoint
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    write = teachers.endpoint_teacher(url, "m")
    answers += [(429, ""), (503, ""), (200, '{"explanation": "ok"}')]
    assert write([RECORD], [ASKED], "detail") == ["ok"]
    assert [key for _, key, _ in seen] == [None] * 3
    answers += [(401, "")]
    with pytest.raises(RunError, match="401"):
        write([RECORD], [ASKED], "brief")
    answers += [(302, "")]
    with pytest.raises(RunError, match="302"):
        write([RECORD], [ASKED], "brief")
    assert all(path == "/v1/chat/completions" for path, _, _ in seen)


@pytest.mark.parametrize("reply", ["", "{", '{"explanation": 3}', '{"other": "x"}', "[1]"])
def test_replies_without_an_explanation(reply):
    assert teachers.explanation(reply) is None


def test_no_address():
    with pytest.raises(UsageError, match="file:///etc"):
        teachers.endpoint_teacher("file:///etc", "m")
