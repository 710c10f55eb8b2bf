"""A server as a writer, against one of our own on this machine: what is asked, repeated, refused and told."""

import base64
import io
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from adapters import tiny_lm, tiny_vlm
from PIL import Image

from mmalign._build import build_named, named_tree
from mmalign._names import KINDS
from mmalign.types import Part, UserError
from mmalign.writers._chat import spread
from mmalign.writers.endpoint import Endpoint
from mmalign.writing import Weighing

KEY = "sk-not-to-be-seen"
Reply = tuple[int, Any] | tuple[int, Any, dict[str, str]]


class Server:
    """Answers by `reply(body)`, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.reply: Callable[[dict[str, Any]], Reply] = echoed
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.serve(self)

            def log_message(self, *given: Any) -> None:
                """Nothing on stderr."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self.lock:
            self.asked.append(body | {"path": handler.path})
            self.headers.append(dict(handler.headers))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        status, value, *more = self.reply(body)
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        with self.lock:
            self.at_once -= 1
        try:
            handler.send_response(status)
            for name, text in (more[0] if more else {}).items():
                handler.send_header(name, text)
            handler.end_headers()
            handler.wfile.write(data)
        except OSError:
            return  # the other side waits no longer


def text_of(body: dict[str, Any]) -> str:
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else " ".join(p.get("text", "[image]") for p in content)


def said(text: str | None, **more: Any) -> Reply:
    return 200, {"choices": [{"message": {"role": "assistant", "content": text}, **more}]}


def echoed(body: dict[str, Any]) -> Reply:
    return said(f" {text_of(body)} {body['seed']} ")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def writer(server: Server, **changes: Any) -> Endpoint:
    return Endpoint(server.url, "big", **({"backoff_s": 0.01, "timeout_s": 5.0} | changes))


def ask(one: Endpoint, *texts: str) -> list[str | None]:
    return one.write([tiny_lm.chat(("user", text)) for text in texts], list(range(len(texts))))


def test_what_is_asked_and_answered(server: Server) -> None:
    one = writer(server, temperature=0.5, top_p=0.9, stop=("END",), max_new_tokens=7, system="be short")
    one.ready()
    assert server.asked == []
    assert ask(one, "a", "b", "c") == ["a 0", "b 1", "c 2"]  # in order, whoever was first
    (first,) = [body for body in server.asked if body["seed"] == 0]
    assert first == {
        "path": "/v1/chat/completions",
        "model": "big",
        "messages": [{"role": "system", "content": "be short"}, {"role": "user", "content": "a"}],
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 7,
        "stop": ["END"],
        "seed": 0,
    }
    assert "Authorization" not in server.headers[0]
    one.write([tiny_lm.plain("x")], [2**63 - 1])
    assert server.asked[-1]["seed"] == 2**31 - 1 and one.write([], []) == []


def pixels(piece: dict[str, Any]) -> Image.Image:
    head, data = piece["image_url"]["url"].split(",")
    assert piece["type"] == "image_url" and head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_pictures_and_frames_are_sent_as_they_are(server: Server) -> None:
    picture, clip = tiny_vlm.picture(1), tiny_vlm.clip(2, frames=5)
    writer(server, frames=3).write([tiny_vlm.looking(picture, clip)], [1])
    shown, *frames, text = server.asked[0]["messages"][0]["content"]
    assert pixels(shown).tobytes() == picture.tobytes() and text == {"type": "text", "text": "what is it?"}
    wanted = [clip.frames[place].permute(1, 2, 0).numpy().tobytes() for place in (0, 2, 4)]
    assert [pixels(frame).tobytes() for frame in frames] == wanted
    assert [spread(9, 3), spread(2, 3), spread(4, 1)] == [(0, 4, 8), (0, 1), (0,)]
    with pytest.raises(UserError, match="question 1: holds a image that is not decoded, a str"):
        writer(server).write([(tiny_vlm.looking()[0].__class__("user", (Part("image", "a.png"),)),)], [0])


def test_busy_faulty_and_silent_servers_are_asked_again(server: Server) -> None:
    faults: list[Reply] = [
        (429, {"error": {"message": "busy"}}, {"Retry-After": "0"}),
        (503, b"<html>later</html>"),
        (500, {}),
    ]

    def reply(body: dict[str, Any]) -> Reply:
        return faults.pop() if faults else echoed(body)

    server.reply = reply
    assert ask(writer(server), "a") == ["a 0"] and len(server.asked) == 4
    server.reply = lambda body: (503, {"error": {"message": "down for\n good", "code": "down"}})
    message = r"/v1: asked 3 times and got no answer, at last: status 503 \(down: down for good\)$"
    with pytest.raises(UserError, match=message):
        ask(writer(server, retries=2), "a")
    assert len(server.asked) == 7

    def slow(body: dict[str, Any]) -> Reply:
        time.sleep(0.2 if len(server.asked) == 8 else 0)
        return echoed(body)

    server.reply = slow
    assert ask(writer(server, timeout_s=0.1, retries=1), "a") == ["a 0"] and len(server.asked) == 9


def test_one_failure_ends_the_others_at_once(server: Server) -> None:
    def reply(body: dict[str, Any]) -> Reply:
        return (401, {"error": "who?"}) if text_of(body) == "2" else (503, {}, {"Retry-After": "500"})

    server.reply = reply
    begun = time.monotonic()
    with pytest.raises(UserError, match=r"status 401 \(who\?\); key_env must name"):
        ask(writer(server, parallel=3), *map(str, range(50)))
    assert time.monotonic() - begun < 3 and len(server.asked) < 10


def test_no_more_requests_at_once_than_allowed(server: Server) -> None:
    def reply(body: dict[str, Any]) -> Reply:
        time.sleep(0.02)
        return echoed(body)

    server.reply = reply
    ask(writer(server, parallel=2), *map(str, range(8)))
    assert server.most_at_once == 2


@pytest.mark.parametrize(
    "reply",
    [
        (400, {"error": {"code": "content_filter", "message": "no"}}),
        (403, {"error": {"type": "content_policy_violation"}}),
        said("half", finish_reason="content_filter"),
        said("Final Score: 1", finish_reason="length"),
        (200, {"choices": [{"message": {"content": None, "refusal": "I will not"}}]}),
        said(None),
        said(" \n"),
    ],
)
def test_what_is_refused_or_empty_is_none(server: Server, reply: Reply) -> None:
    server.reply = lambda body: reply if text_of(body) == "bad" else echoed(body)
    assert ask(writer(server), "bad", "good") == [None, "good 1"] and len(server.asked) == 2


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((404, {"error": {"message": "no model big"}}), r"status 404 \(no model big\); see url and model$"),
        ((400, {"error": {"code": "context_length_exceeded"}}), "status 400 .context_length_exceeded"),
        ((200, b"<html>"), "the answer is no JSON; is the address right"),
        ((200, {"object": "list"}), "its answer has no choices"),
        ((200, {"choices": [{"text": "old"}]}), "its answer has no message"),
        ((200, {"choices": [{"message": {"content": [1]}}]}), "content of its answer is no text"),
        ((302, b"", {"Location": "http://127.0.0.1:1/"}), "status 302$"),
    ],
)
def test_other_refusals_are_one_line_and_not_repeated(server: Server, reply: Reply, message: str) -> None:
    server.reply = lambda body: reply
    with pytest.raises(UserError, match=message) as found:
        ask(writer(server), "a")
    assert "\n" not in str(found.value) and len(server.asked) == 1


def test_nobody_there(server: Server) -> None:
    gone = Endpoint("http://127.0.0.1:9/v1", "big", retries=1, backoff_s=0.01)
    with pytest.raises(UserError, match="endpoint: url: nobody answers at http://127.0.0.1:9/v1"):
        gone.ready()
    with pytest.raises(UserError, match="asked 2 times and got no answer, at last: .*refused"):
        ask(gone, "a")


def test_the_key_comes_from_the_environment_and_is_never_shown(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = writer(server, key_env="WRITER_KEY")
    with pytest.raises(UserError, match="the environment variable WRITER_KEY is not set"):
        one.ready()
    monkeypatch.setenv("WRITER_KEY", f"{KEY}\nmore")
    with pytest.raises(UserError, match="what WRITER_KEY holds is no key") as found:
        writer(server, key_env="WRITER_KEY").ready()
    monkeypatch.setenv("WRITER_KEY", KEY)
    assert ask(one, "a") == ["a 0"] and server.headers[0]["Authorization"] == f"Bearer {KEY}"
    server.reply = lambda body: (401, {"error": {"message": f"wrong key {KEY}"}})
    with pytest.raises(UserError, match=r"wrong key \*\*\*") as found:
        ask(one, "a")
    told = [str(found.value), repr(one), repr(one._asking), json.dumps(named_tree(KINDS["helper"], one))]
    assert not any(KEY in text for text in told) and "WRITER_KEY" in told[3]


def test_chances_come_from_the_likeliest_tokens(server: Server) -> None:
    top = {"Yes": 0.5, " Yes": 0.125, "yes": 0.0625, "No": 0.25}
    listed = [{"token": token, "logprob": math.log(p)} for token, p in top.items()]
    server.reply = lambda body: said("Yes", logprobs={"content": [{"top_logprobs": listed}]})
    one = writer(server, temperature=0.0)
    assert isinstance(one, Weighing)
    found = one.chances([tiny_lm.chat(("user", "red?"))], ("Yes", "yes", "No", "no"))
    assert found == [pytest.approx((0.625, 0.0625, 0.25, 0.0))]
    body = server.asked[0]
    assert body["temperature"] == 1.0 and body["max_tokens"] == 1 and body["top_logprobs"] == 20
    for reply, message in [
        (said("Yes"), r"tells no probabilities \(top_logprobs\)"),
        (said("Yes", logprobs={"content": [{"top_logprobs": [{"token": "Yes"}]}]}), "top_logprobs holds"),
        ((400, {"error": {"code": "content_filter"}}), "refuses question 1: status 400"),
    ]:
        server.reply = lambda body, reply=reply: reply  # type: ignore[misc]
        with pytest.raises(UserError, match=message):
            one.chances([tiny_lm.plain("x")], ("Yes", "No"))
    with pytest.raises(UserError, match="'Yes' and ' Yes' begin with the same token"):
        one.chances([tiny_lm.plain("x")], ("Yes", " Yes"))


def test_sections_are_checked() -> None:
    section = {"name": "endpoint", "url": "http://127.0.0.1:8000/v1", "model": "big"}
    assert build_named(KINDS["helper"], section, "helper", False) == Endpoint(section["url"], "big")
    for change, message in (
        ({"url": "file:///etc/passwd"}, "helper.url: must be an address such as"),
        ({"url": "http://me:secret@host/v1"}, "helper.url: must hold no user, password"),
        ({"url": "http://host/v1?key=secret"}, "helper.url: must hold no user, password"),
        ({"key_env": "sk-secret"}, "helper.key_env: must be the name of an environment variable"),
        ({"parallel": 0}, "helper.parallel: must be above 0, got 0"),
        ({"retries": -1}, "helper.retries: must be 0 or more"),
        ({"top_p": 0.0}, r"helper.top_p: must lie in \(0, 1\]"),
        ({"model": " "}, "helper.model: must say something"),
        ({"stop": [""]}, "helper.stop: a stop string"),
    ):
        with pytest.raises(UserError, match=message) as found:
            build_named(KINDS["helper"], section | change, "helper", False)
        assert "secret" not in str(found.value)
    with pytest.raises(UserError, match="helper.url: this field is required"):
        build_named(KINDS["helper"], {"name": "endpoint", "model": "big"}, "helper", False)
