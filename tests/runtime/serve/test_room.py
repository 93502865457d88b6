"""Large bodies: refused by their heads, kept within their bound, and never at the cost of others."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import threading
import time
from pathlib import Path

import httptools
import numpy as np
import pytest

from edgekit.errors import UsageError
from edgekit.serve import settings
from edgekit.serve.arrival import Arrival
from edgekit.serve.jobs import Queue
from edgekit.serve.settings import Bounds

LARGE = 90_000


def head(length, *headers, path=b"/v2/models/slow/infer"):
    lines = [b"POST %s HTTP/1.1" % path, b"Host: localhost", b"Content-Length: %d" % length, *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def wish(milliseconds, size=LARGE):
    """A body of so many bytes, whose call takes so long."""
    given = np.zeros((1, 8, 8, 2), np.float32)
    given[0, 0, 0, 0] = milliseconds
    about = {"name": "image", "datatype": "FP32", "shape": list(given.shape), "data": given.ravel().tolist()}
    text = json.dumps({"inputs": [about]}).encode()
    return text + b" " * (size - len(text))


def connect(server):
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


def answered(link):
    """Status, code and all of the answer."""
    data = b""
    while b"\r\n\r\n" not in data and (more := link.recv(1 << 16)):
        data += more
    first, _, rest = data.partition(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", first)[1])
    while len(rest) < length:
        rest += link.recv(1 << 16)
    return int(first[9:12]), json.loads(rest).get("code"), first


def gauge(server, name):
    return float(re.search(rf"^edgekit_{name} (\S+)$", server.ask("GET", "/metrics")[2].decode(), re.MULTILINE)[1])


def senders(server, count, begin):
    """So many links on which a large body began to come, once there is room for all of them."""
    links = [connect(server) for _ in range(count)]
    for link in links:
        link.sendall(begin)
    until = time.monotonic() + 10
    while gauge(server, "body_bytes") < count * LARGE and time.monotonic() < until:
        time.sleep(0.002)
    return links


def two_may_wait(serve, plain, slow_engine, tmp_path_factory):
    """And three large bodies are kept."""
    config = tmp_path_factory.mktemp("config") / "serve.toml"
    config.write_text(
        '[bounds]\nbody = 100_000\nbuffered = 280_000\n[serving]\nengine = "slow"\nqueue = 2\nbatch = 1\n'
    )
    return serve(plain, "--config", config, env=slow_engine)


@pytest.fixture(scope="module")
def tight(serve, plain, slow_engine, tmp_path_factory):
    return two_may_wait(serve, plain, slow_engine, tmp_path_factory)


@pytest.fixture
def full(serve, plain, slow_engine, tmp_path_factory, gate):
    """One is at work, and two wait. A server of its own: one that saw short calls gives its worker a second ahead."""
    tight = two_may_wait(serve, plain, slow_engine, tmp_path_factory)
    links = [connect(tight) for _ in range(3)]
    for waiting, link in enumerate(links):  # one after the other: the worker must have the first before two can wait
        link.sendall(head(LARGE) + wish(gate.held))
        seen = ['edgekit_running{model="slow"} 1\n', f'edgekit_queue{{model="slow"}} {waiting}\n']
        for _ in range(3000):  # tries, not seconds: where a machine stops for a while, they stop as well
            text = tight.ask("GET", "/metrics")[2].decode()
            if all(line in text for line in seen):
                break
            time.sleep(0.005)
        else:
            pytest.fail("the queue did not fill")
    yield tight
    gate.open()
    assert [answered(link)[0] for link in links] == [200] * 3
    for link in links:
        link.close()


@pytest.mark.parametrize("expectation", [(), (b"Expect: 100-continue",)])
def test_a_full_queue_is_told_before_the_body_comes(full, expectation):
    with connect(full) as link:
        link.sendall(head(50_000, *expectation))
        status, code, said = answered(link)
        assert (status, code) == (429, "queue-full")
        assert b"retry-after: " in said
        assert b"connection: close" in said
        assert link.recv(1) == b""


def test_who_sends_all_before_reading_is_told_so(full):
    """Its body goes nowhere, and no reset takes the answer away."""
    with connect(full) as link:
        link.sendall(head(100_000))
        for _ in range(10):
            link.sendall(b" " * 10_000)
            time.sleep(0.005)
        assert answered(link)[:2] == (429, "queue-full")


def test_places_are_promised_from_the_head_on(tight):
    coming = senders(tight, 2, head(LARGE))
    with connect(tight) as late:
        late.sendall(head(LARGE))
        told = answered(late)[:2]
    for link in coming:
        link.sendall(wish(0))
    assert told == (429, "queue-full")
    assert [answered(link)[0] for link in coming] == [200, 200]
    for link in coming:
        link.close()


def test_promised_places_are_not_kept_for_ever():
    queue = Queue(2)
    for who in "ab":
        queue.promise(who, 10.0)
    assert [queue.room(0, now) for now in (9.0, 10.0)] == [False, True]
    queue.redeem("a")
    assert queue.room(0, 9.0)


def test_a_body_that_comes_too_late_is_told_at_its_deadline(tight):
    begun = time.monotonic()
    with connect(tight) as link:
        link.sendall(head(LARGE, b"Edgekit-Deadline-Ms: 200"))
        assert answered(link)[:2] == (408, "deadline-passed")
    assert 0.15 < time.monotonic() - begun < 20  # of 60 seconds for a body
    assert gauge(tight, "body_bytes") == 0


@pytest.fixture(scope="module")
def narrow(serve, plain, slow_engine, tmp_path_factory):
    """Twenty may wait, but only three large bodies are kept."""
    config = tmp_path_factory.mktemp("config") / "serve.toml"
    config.write_text('[bounds]\nbody = 100_000\nbuffered = 280_000\n[serving]\nengine = "slow"\nqueue = 20\n')
    return serve(plain, "--config", config, env=slow_engine)


def all_at_once(server, count, body):
    """Statuses of so many clients, each with a connection of its own."""
    statuses = []

    def ask():
        with connect(server) as link:
            link.sendall(head(len(body)) + body)
            statuses.append(answered(link)[0])

    clients = [threading.Thread(target=ask) for _ in range(count)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return statuses


def test_more_than_is_kept_waits_at_its_senders(narrow):
    assert all_at_once(narrow, 12, wish(5)) == [200] * 12
    assert gauge(narrow, "body_bytes") == 0


def test_slow_senders_give_way_when_others_wait(narrow):
    slow = senders(narrow, 3, head(LARGE) + b" " * 40_000)
    begun = time.monotonic()
    assert all_at_once(narrow, 6, wish(0)) == [200] * 6
    assert time.monotonic() - begun < 30  # of 60 seconds for a body
    assert {answered(link)[:2] for link in slow[:1]} == {(408, "http-slow")}
    for link in slow:
        link.close()


def test_small_ones_are_answered_beside_large_ones_that_fill_the_room(narrow):
    slow = senders(narrow, 3, head(LARGE))
    small = wish(0, 8000)
    with connect(narrow) as link:
        for _ in range(5):
            link.sendall(head(len(small)) + small)
            assert answered(link)[0] == 200
    for link in slow:
        link.close()


def resident(server):
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{server.process.pid}/status").read_text())[1]) / 1024


def test_who_does_not_read_is_not_answered_on(narrow):
    """Requests sent ahead on one connection, whose answers nobody takes: hundreds of megabytes of them."""
    asked = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20
    before = resident(narrow)
    with connect(narrow) as link:
        link.setblocking(False)
        tries = sent = 0
        while tries < 100 and sent < 2_000_000:
            with contextlib.suppress(BlockingIOError):
                sent += link.send(asked)
                tries = 0
                continue
            tries += 1
            time.sleep(0.005)
    assert narrow.ask("GET", "/v2/health/live")[0] == 200
    assert resident(narrow) - before < 16


class Link:
    """A socket whose last bytes came so many milliseconds ago."""

    family = socket.AF_INET

    def __init__(self, milliseconds):
        self._told = bytes(52) + struct.pack("I", milliseconds) + bytes(100)

    def fileno(self):
        return -1

    def getsockopt(self, level, option, size):
        assert (level, option) == (socket.IPPROTO_TCP, socket.TCP_INFO)
        return self._told[:size]


class Desk:
    """A receiver and a door in one."""

    client, state, since, bounds = "a", "head", 99.0, Bounds()

    def heads(self, *, local):
        return None

    def now(self):
        return 100.0

    def answered(self, request, reply):
        raise AssertionError


@pytest.mark.parametrize(("milliseconds", "came"), [(0, 100.0), (250, 99.75), (5000, 99.0)])
def test_a_request_came_when_the_kernel_had_it(milliseconds, came):
    arrival = Arrival(Desk(), Desk(), httptools, Link(milliseconds))

    arrival.on_message_begin()
    assert arrival.request.arrived == pytest.approx(came)


def test_a_larger_body_makes_room_for_itself(tmp_path):
    file = tmp_path / "serve.toml"
    for said, wanted in (
        ("body = 67_108_864", (64 << 20, 64 << 20)),
        ("body = 1024", (1024, Bounds.buffered)),
        ("body = 67_108_864\nbuffered = 134_217_728", (64 << 20, 128 << 20)),
    ):
        file.write_text(f"[bounds]\n{said}\n")
        bounds = settings.read(file).bounds
        assert (bounds.body, bounds.buffered) == wanted
    file.write_text("[bounds]\nbody = 67_108_864\nbuffered = 1_000_000\n")
    with pytest.raises(UsageError):
        settings.read(file)
