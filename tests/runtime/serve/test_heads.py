"""A head that was read before is not parsed again: answers are the same, however requests are cut and mixed."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import re
import socket

import httptools
import numpy as np
import pytest

from edgekit.serve.heads import LONGEST, Heads
from edgekit.serve.http import Connection
from edgekit.serve.messages import Reply
from edgekit.serve.routes import Route
from edgekit.serve.settings import Bounds


def post(body, *headers, path=b"/v2/models/int8/infer"):
    lines = [b"POST %s HTTP/1.1" % path, b"Host: localhost", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def get(path):
    return b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path


@pytest.fixture(scope="module")
def requests(server, tensor, image):
    """What is sent, and the answer that each gets alone on a connection."""
    small = json.dumps({"inputs": [tensor(image(1))]}).encode()
    large = json.dumps({"inputs": [tensor(image(2, (40, 8, 8, 2)))]}).encode()
    assert len(large) > 1 << 16
    sent = [post(small), post(large), post(small, path=b"/v2/models/cat/infer"), get(b"/v2/models/int8"),
            post(b"{}"), post(large, b"Edgekit-Deadline-Ms: 60000"), get(b"/v2/health/live")]  # fmt: skip
    return [(data, answers(server, [data], 1)[0]) for data in sent]


def answers(server, pieces, count):
    """Status and body of so many."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            link.sendall(piece)
        return [answer(link) for _ in range(count)]


def answer(link):
    data = b""
    while b"\r\n\r\n" not in data:
        data += link.recv(1)
    length = int(re.search(rb"content-length: (\d+)", data)[1])
    body = b""
    while len(body) < length:
        body += link.recv(length - len(body))
    return int(data[9:12]), body


def test_again_and_again_on_one_connection(server, requests):
    for data, wanted in requests:
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as link:
            for _ in range(4):
                link.sendall(data)
                assert answer(link) == wanted


def test_cut_and_sent_ahead_in_any_way(server, requests):
    dice = random.Random(5)
    for _ in range(30):
        chosen = [dice.choice(requests) for _ in range(dice.randrange(1, 6))]
        whole = b"".join(data for data, _ in chosen)
        cuts = sorted(dice.randrange(len(whole)) for _ in range(dice.randrange(6)))
        pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
        assert answers(server, pieces, len(chosen)) == [wanted for _, wanted in chosen]


def test_a_head_that_lies_about_nothing_but_its_body_is_read_as_it_stands(server, requests):
    """Known heads with other bodies: shorter ones wait, longer ones are the next request."""
    data, _ = requests[0]
    assert answers(server, [data, data + b"nonsense\r\n\r\n"], 3)[2][0] == 400
    head, _, body = data.partition(b"\r\n\r\n")
    wrong = head + b"\r\n\r\n" + b"x" * len(body)
    assert answers(server, [data, wrong], 2)[1][0] == 400


class Room:
    """For every body."""

    def __getattr__(self, name):
        return lambda *args: True


class Hall:
    """A door behind which nobody answers before the test does."""

    def __init__(self):
        self.bounds, self.stopping = Bounds(), False
        self.raw = bytearray(1 << 16)
        self.buffer = memoryview(self.raw)
        self.handled = []
        self.room = Room()
        self._heads = Heads()

    def heads(self, *, local):
        return self._heads

    def handle(self, request):
        self.handled.append(request)

    clock = 0.0

    def now(self):
        return self.clock

    def __getattr__(self, name):
        answers = {"joined": True, "hold": True}
        return lambda *args: answers.get(name)


class Wire(asyncio.Transport):
    written = b""
    closed = False
    reading = True

    def __init__(self, link=None):
        super().__init__()
        self._link = link

    def get_extra_info(self, name, default=None):
        if name == "sslcontext":
            return None if self._link else object()
        return self._link if name == "socket" else default

    def can_write_eof(self):
        return self._link is not None

    def close(self):
        self.closed = True

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        self.reading = True

    def write(self, data):
        self.written += data


def test_what_arrives_between_an_answer_and_the_next_waits_its_turn():
    async def order():
        hall, wire = Hall(), Wire()
        connection = Connection(hall, httptools)
        connection.connection_made(wire)

        def arrives(data):
            hall.raw[: len(data)] = data
            connection.buffer_updated(len(data))

        arrives(get(b"/1") + get(b"/2"))
        hall.handled[0].answer(Reply(200, b"1"))
        arrives(get(b"/3") + b"nonsense\r\n\r\n")
        for _ in range(3):
            await asyncio.sleep(0)
            hall.handled[-1].answer(Reply(200, hall.handled[-1].path[1:]))
        return wire.written

    answered = asyncio.run(order())
    assert re.findall(rb"content-length: 1\r\n(?:connection: close\r\n)?\r\n(\d)", answered) == [b"1", b"2", b"3"]


@pytest.mark.parametrize(("seconds", "answered"), [(0.0, True), (0.05, True), (1.0, False)])
def test_who_ends_long_after_asking_has_given_up(seconds, answered):
    hall = Hall()
    with socket.socket() as link:
        wire = Wire(link)
        connection = Connection(hall, httptools)
        connection.connection_made(wire)
        hall.clock = 5.0
        data = get(b"/1")
        hall.raw[: len(data)] = data
        connection.buffer_updated(len(data))
        hall.clock += seconds
        assert connection.eof_received() is answered
        if not answered:
            connection.connection_lost(None)
        hall.handled[0].answer(Reply(200, b"1"))
    assert (wire.written.endswith(b"connection: close\r\n\r\n1"), wire.closed) == (answered, answered)


@pytest.mark.parametrize(
    ("raw", "headers"),
    [
        (b"GET /v2 HTTP/1.1\nHost: a\r\n\r\n", {b"host": b"a"}),
        (b"GET /v2 HTTP/1.1\r\nHost: a\n\r\n", {b"host": b"a"}),
        (b"GET /v2 HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", {b"host": b"a folded"}),
        (b"GET /v2 HTTP/1.0\r\nHost: a\r\n\r\n", {b"host": b"a"}),
        (b"GET /v2 HTTP/1.1\r\nHost: a\0\r\n\r\n", {b"host": b"a\0"}),
        (b"\r\nGET /v2 HTTP/1.1\r\nHost: a\r\n\r\n", {b"host": b"a"}),
        (b"POST /v2 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", {b"transfer-encoding": b"chunked"}),
        (b"POST /v2 HTTP/1.1\r\nExpect: 100-continue\r\n\r\n", {b"expect": b"100-continue"}),
        (b"POST /v2 HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n", {b"content-length": b"1, 1"}),
        (b"POST /v2 HTTP/1.1\r\nContent-Length : 1\r\n\r\n", {b"content-length": b"1"}),
    ],
)
def test_what_could_be_read_in_two_ways_is_not_kept(raw, headers):
    heads = Heads()
    heads.keep(raw, b"GET", headers, "", Route())
    assert heads.find(raw) is None


def test_only_the_last_ones_are_kept():
    heads = Heads()
    raws = [b"GET /v2/%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(1000)]
    for raw in raws:
        heads.keep(raw, b"GET", {b"host": b"a"}, "", Route())
    kept = [raw for raw in raws if heads.find(raw)]
    assert kept == raws[-len(kept) :]
    assert 0 < len(kept) < 1000
    assert max(map(len, kept)) < LONGEST


def test_a_key_counts_for_each_request_that_shows_it(serve, served, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("a" * 20 + "\n")
    one = serve(served / "int8.tflite", "--host", "0.0.0.0", "--api-key-file", keys)
    shown = b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nX-API-Key: %s\r\n\r\n"
    good, bad = shown % (b"a" * 20), shown % (b"b" * 20)
    found = answers(one, [good, bad, good, bad, good], 5)
    assert [status for status, _ in found] == [200, 401, 200, 401, 200]


def test_refused_again_and_again_without_a_body_that_is_kept(serve, served, tensor, image, tmp_path):
    """A full queue: large bodies go nowhere, connections stay, and what they held is free again."""
    config = tmp_path / "serve.toml"
    config.write_text("[serving]\nqueue = 1\n[bounds]\nclient_requests = 64\n")
    one = serve(served / "int8.tflite", "--config", config, "--threads", 1)
    given = image(3, (60, 8, 8, 2))
    body = json.dumps({"inputs": [tensor(given)]}).encode()
    links = [http.client.HTTPConnection("127.0.0.1", one.port, timeout=60) for _ in range(24)]
    statuses, values = [], set()
    for _ in range(12):
        for link in links:
            link.request("POST", "/v2/models/int8/infer", body)
        for link in links:
            answer = link.getresponse()
            said = json.loads(answer.read())
            statuses.append(answer.status)
            assert (answer.status, said.get("code")) in ((200, None), (429, "queue-full"))
            if answer.status == 200:
                values.add(tuple(said["outputs"][0]["data"]))
            else:
                assert int(answer.headers["Retry-After"]) >= 1
    assert min(statuses.count(200), statuses.count(429)) > 12
    assert len(values) == 1
    assert np.isfinite(next(iter(values))).all()
    text = one.ask("GET", "/metrics")[2].decode()
    assert re.search(r"^edgekit_body_bytes 0$", text, re.MULTILINE)
    for link in links:
        link.close()
