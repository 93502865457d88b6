"""Floods, attacks, clients that die, servers that stop and versions that change, all under load.

In every run a little of each; `make stress` runs them at length: 500 slow connections, 1,000 killed clients, 100,000
mutated requests, 50 stops, 200 exchanges, 10,000 concurrent requests.
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import os
import random
import re
import socket
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import edgekit

MIB = 1 << 20
CAP = 16 * MIB  # bounds.body


class Load:
    """Clients in threads that ask the same again and again; what went wrong is kept."""

    def __init__(self, port, bodies, check, *, clients=4, path="/v2/models/int8/infer"):
        self.over = threading.Event()
        self.wrong, self.answered, self.unanswered = [], 0, 0
        self._port, self._bodies, self._check, self._path = port, bodies, check, path
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(seed,)) for seed in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self, seed):
        dice = random.Random(seed)
        link = http.client.HTTPConnection("127.0.0.1", self._port, timeout=300)
        while not self.over.is_set():
            place = dice.randrange(len(self._bodies))
            try:
                if link.sock is None:
                    link.connect()
            except ConnectionError:
                return  # nobody listens any more: nothing was accepted
            try:
                link.request("POST", self._path, self._bodies[place])
                answer = link.getresponse()
                said = json.loads(answer.read())
            except (OSError, http.client.HTTPException):
                with self._lock:
                    self.unanswered += 1
                link.close()
                continue
            if answer.will_close:
                link.close()
            with self._lock:
                self.answered += 1
                if not self._check(place, answer.status, said):
                    self.wrong.append(said)
        link.close()

    def stop(self):
        self.over.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture(scope="module")
def bodies(tensor):
    dice = np.random.default_rng(4)
    arrays = [dice.random((1 + n % 3, 8, 8, 2), np.float32) for n in range(8)]
    return arrays, [json.dumps({"inputs": [tensor(array)]}) for array in arrays]


def right(path, arrays):
    """Whether an answer is what single calls give."""
    with edgekit.load(path, threads=1) as model:
        known = [model.run({"image": array})["probs"].ravel() for array in arrays]

    def check(place, status, said):
        return status == 200 and np.array_equal(np.float32(said["outputs"][0]["data"]), known[place])

    return check


def post(body, *headers):
    lines = [b"POST /v2/models/int8/infer HTTP/1.1", b"Host: localhost", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def processes(server):
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    return [server.process.pid, *map(int, children)]


def peak(server):
    """MiB of all processes, at most so far."""
    texts = [Path(f"/proc/{pid}/status").read_text() for pid in processes(server)]
    return sum(int(re.search(r"VmHWM:\s+(\d+)", text)[1]) for text in texts) / 1024


def held(server):
    """Descriptors and threads of the server; and what its metrics say it holds."""
    pid = server.process.pid
    text = server.ask("GET", "/metrics")[2].decode()
    gauges = re.findall(
        r"^edgekit_(open_connections|body_bytes|clients|queue|running)(?:\{[^}]*\})? (\d+)$", text, re.MULTILINE
    )
    return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task")), sorted(gauges)


def settles(server, wanted, seconds=5.0):
    until = time.monotonic() + seconds
    while (found := held(server)) != wanted and time.monotonic() < until:
        time.sleep(0.05)
    return found


ATTACKS = {
    "a million chunks of one byte": lambda: post(b"1\r\n0\r\n" * 1_000_000, b"Transfer-Encoding: chunked"),
    "gzip 1000 to 1": lambda: _sized(gzip.compress(b"[" + b" " * (15 * MIB) + b"]", 9), b"Content-Encoding: gzip"),
    "gzip in one member of zeros": lambda: _sized(gzip.compress(b"\0" * (400 * MIB), 1), b"Content-Encoding: gzip"),
    "10,000 deep": lambda: _sized(b"[" * 10_000 + b"]" * 10_000),
    "10,000 objects deep": lambda: _sized(b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
    "8 million values": lambda: _sized(b"[" + b"0," * 8_000_000 + b"0]"),
    "a length that lies": lambda: _sized(b"{}", b"Inference-Header-Content-Length: 2000000000"),
    "a length beyond 64 bits": lambda: post(b"{}", b"Content-Length: 99999999999999999999"),
    "a length of 100 GB": lambda: post(b"{}", b"Content-Length: 107374182400"),
    "a huge shape": lambda: _sized(_shaped([2147483647] * 16)),
    "a huge shape in bytes": lambda: _sized(_shaped([1 << 30, 8, 8, 2], size=1 << 30)),
    "endless headers": lambda: post(b"", b"X: " + b"a" * (4 * MIB)),
}  # fmt: skip


def _sized(body, *headers):
    return post(body, b"Content-Length: %d" % len(body), b"Connection: close", *headers)


def _shaped(shape, size=None):
    about = {"name": "image", "datatype": "FP32", "shape": shape}
    about |= {"data": [0.0]} if size is None else {"parameters": {"binary_data_size": size}}
    return json.dumps({"inputs": [about]}).encode()


LONG = {
    "a long string": b'"' + b"a" * (15 * MIB) + b'"',
    "escapes": b'"' + b"\\n" * (7 * MIB) + b'"',
    "a string that never ends": b'"' + b'\\"' * (7 * MIB),
    "very many strings": b"[" + b",".join([b'"a"'] * 999_000) + b"]",
}


@pytest.mark.parametrize("name", LONG)
def test_texts_take_memory_by_their_length(server, name):
    """Before, 1.7 GB, or all the time there is."""
    before = peak(server)
    status, _, said = server.ask("POST", "/v2/models/int8/infer", LONG[name], {"Edgekit-Deadline-Ms": "120000"})
    assert (status, json.loads(said)["code"]) in ((400, "body-field"), (400, "body-json"))
    assert peak(server) - before <= 8 * len(LONG[name]) / MIB + 64


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_refused_in_little_memory(server, name):
    data = ATTACKS[name]()
    before = peak(server)
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as link:
        with contextlib.suppress(ConnectionError):  # it may be refused before all was sent
            link.sendall(data)
        answer = b"".join(iter(lambda: link.recv(1 << 16), b""))
    assert re.match(rb"HTTP/1.1 4\d\d ", answer), answer[:200]
    assert peak(server) - before <= 2 * CAP / MIB
    assert server.ask("GET", "/v2/health/live")[0] == 200


def test_normal_clients_beside_slow_ones(serve, served, bodies, effort):
    server = serve(served / "int8.tflite", "--threads", 1)
    arrays, texts = bodies
    count = 500 if effort > 1 else 100
    slow = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in range(count)]
    over = threading.Event()

    def drip():
        sent = 0
        data = post(b"", b"Content-Length: 100") + b" " * 50
        while not over.wait(0.1):
            for link in slow:
                try:
                    link.send(data[sent % len(data) : sent % len(data) + 1])
                except OSError:
                    continue  # let go meanwhile
            sent += 1

    dripping = threading.Thread(target=drip)
    dripping.start()
    load = Load(server.port, texts, right(served / "int8.tflite", arrays), clients=2)
    time.sleep(20 if effort > 1 else 1)
    load.stop()
    over.set()
    dripping.join()
    for link in slow:
        link.close()
    total = load.answered + load.unanswered
    assert total >= 20
    assert load.unanswered + len(load.wrong) <= total / 100


def test_killed_clients_leave_nothing_behind(serve, served, bodies, effort):
    """They end by a reset, at any byte of a request or of its answer."""
    server = serve(served / "int8.tflite", "--threads", 1)
    _, texts = bodies
    assert server.ask("POST", "/v2/models/int8/infer", texts[0])[0] == 200
    wanted = held(server)
    dice = random.Random(1)
    links = []
    for number in range(1000 if effort > 1 else 60):
        link = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        body = dice.choice(texts).encode()
        data = post(body, b"Content-Length: %d" % len(body))
        link.sendall(data[: dice.choice((dice.randrange(len(data)), len(data)))])
        links.append(link)
        if len(links) > 40 or number % 7 == 0:
            killed = links.pop(dice.randrange(len(links)))
            killed.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            killed.close()
    for link in links:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        link.close()
    assert settles(server, wanted) == wanted


def test_mutated_requests(server, bodies, effort):
    """Whatever comes: an answer below 500, or none, soon."""
    _, texts = bodies
    dice = random.Random(2)
    body = texts[0].encode()
    sane = [
        post(body, b"Content-Length: %d" % len(body)),
        post(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body), b"Transfer-Encoding: chunked"),
        b"GET /v2/models/int8 HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3,
        _sized(gzip.compress(body), b"Content-Encoding: gzip", b"Edgekit-Deadline-Ms: 1000"),
        _sized(body, b"Expect: 100-continue", b"Inference-Header-Content-Length: %d" % len(body)),
    ]
    statuses = set()
    for _ in range(100_000 if effort > 1 else 500):
        data = _mutated(dice.choice(sane), dice)
        with socket.create_connection(("127.0.0.1", server.port), timeout=300) as link:
            try:
                link.sendall(data)
                link.shutdown(socket.SHUT_WR)
                answer = b"".join(iter(lambda: link.recv(1 << 16), b""))
            except ConnectionError:
                continue
        statuses |= set(re.findall(rb"HTTP/1.1 (\d\d\d) ", answer))
    assert statuses
    assert not [status for status in statuses if status >= b"500"]
    assert server.ask("GET", "/v2/health/ready")[0] == 200


def _mutated(data, dice):
    out = bytearray(data)
    for _ in range(dice.choice((1, 2, 8))):
        at = dice.randrange(len(out))
        kind = dice.randrange(5)
        if kind == 0:
            out[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            out[at : at + 2] = dice.choice(
                (b"\r\n", b"\n", b"\0", b": ", b"\r\n\r\n", b"-1", b"\xff\xff", dice.randbytes(3))
            )
        elif kind == 2:
            del out[at : at + dice.randrange(1, 32)]
        elif kind == 3:
            out[at:at] = out[at : at + dice.randrange(1, 64)]
        else:
            out = out[: max(at, 1)]
        if not out:
            out = bytearray(b"\0")
    return bytes(out)


def test_stops_under_load_lose_nothing(serve, served, bodies, effort):
    arrays, texts = bodies
    check = right(served / "int8.tflite", arrays)
    for _ in range(50 if effort > 1 else 1):
        server = serve(served / "int8.tflite", "--threads", 1)
        load = Load(server.port, texts, check)
        until = time.monotonic() + 30
        while load.answered < 20 and time.monotonic() < until:
            time.sleep(0.01)
        begun = time.monotonic()
        code, said = server.stop()
        took = time.monotonic() - begun
        load.stop()
        assert (code, load.wrong, load.unanswered) == (0, [], 0), said
        assert load.answered >= 20
        assert took < 10


def test_many_at_once_answer_as_one_alone(serve, served, bodies, tensor, effort):
    """Batches of several clients change nothing of integer answers."""
    turned = [np.ascontiguousarray(array.transpose(0, 3, 1, 2)) for array in bodies[0]]
    texts = [json.dumps({"inputs": [tensor(array)]}) for array in turned]
    server = serve(served / "many.onnx", "--threads", 1)
    wanted = 10_000 if effort > 1 else 300
    load = Load(server.port, texts, right(served / "many.onnx", turned), clients=12, path="/v2/models/many/infer")
    until = time.monotonic() + 300
    while load.answered < wanted and time.monotonic() < until:
        time.sleep(0.05)
    load.stop()
    assert (load.wrong, load.unanswered) == ([], 0)
    assert load.answered >= wanted
    together = re.findall(
        r'edgekit_batched_total\{model="many",kind="(\d+)"', server.ask("GET", "/metrics")[2].decode()
    )
    assert max(map(int, together)) > 1
