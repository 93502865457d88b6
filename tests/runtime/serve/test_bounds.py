"""What clients can make grow or wait has an end, and who may not ask gets nothing."""

from __future__ import annotations

import datetime as dt
import http.client
import json
import select
import socket
import ssl
import time

import pytest

from edgekit.errors import UsageError
from edgekit.serve.access import Access
from edgekit.serve.settings import Settings
from edgekit.serve.start import start

CONFIG = """
[bounds]
body = 100_000
buffered = 250_000
head = 4096
chunks = 100
connections = 20
client_requests = 40
pipelined = 8
head_seconds = 0.6
body_seconds = 0.6
idle_seconds = 1.0
"""


@pytest.fixture(scope="module")
def small(serve, served, tmp_path_factory):
    config = tmp_path_factory.mktemp("config") / "serve.toml"
    config.write_text(CONFIG)
    return serve(served / "int8.tflite", "--config", config)


def code(answer):
    """Of the last response."""
    return json.loads(answer.rpartition(b"\r\n\r\n")[2])["code"]


def post(body=b"", *headers, path=b"/v2/models/int8/infer"):
    lines = [b"POST %s HTTP/1.1" % path, b"Host: localhost", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    ("data", "status", "wanted"),
    [
        (b"nonsense\r\n\r\n", 400, "http-malformed"),
        (b"GET /v2 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "http-header"),
        (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431, "http-head"),
        (post(b"", b"X: " + b"a" * 5000), 431, "http-head"),
        (post(b"", *[b"X%d: 1" % n for n in range(101)]), 431, "http-head"),
        (post(b"", b"X: " + b"a" * 400_000), 431, "http-head"),
        (post(b"", b"Content-Length: 100001"), 413, "body-limit"),
        (post(b"", b"Content-Length: 18446744073709551616"), 400, "http-malformed"),
        (post(b"", b"Content-Length: -1"), 400, "http-malformed"),
        (post(b"", b"Content-Length: 5", b"Transfer-Encoding: chunked"), 400, "http-malformed"),
        (post(b"1\r\na\r\n" * 101, b"Transfer-Encoding: chunked"), 400, "http-chunks"),
        (post(b"19000\r\n" + b"a" * 0x19000 + b"\r\n", b"Transfer-Encoding: chunked"), 413, "body-limit"),
        (post(b"5;" + b"x" * 900_000, b"Transfer-Encoding: chunked"), 413, "body-limit"),
        (post(b"", b"Expect: nothing", b"Content-Length: 5"), 417, "http-expect"),
        (post(b"0\r\n\r\n", b"Transfer-Encoding: gzip, chunked"), 415, "http-coding"),
        (post(b"", b"Content-Encoding: br", b"Content-Length: 0"), 415, "http-coding"),
        (post(b"", b"Edgekit-Deadline-Ms: 0", b"Content-Length: 0"), 400, "http-header"),
        (post(b"", b"Edgekit-Priority: first", b"Content-Length: 0"), 400, "http-header"),
        (b"GET /v2 HTTP/1.1\r\nHost: example.org\r\n\r\n", 421, "http-host"),
        (b"GET /v2 HTTP/1.1\r\nHost: localhost.example.org\r\n\r\n", 421, "http-host"),
        (b"GET http://example.org/v2 HTTP/1.1\r\nHost: localhost\r\n\r\n", 421, "http-host"),
        (post(b"", b"Origin: https://example.org", b"Content-Length: 0"), 403, "http-origin"),
        (post(b"", b"Origin: null", b"Content-Length: 0"), 403, "http-origin"),
    ],
)  # fmt: skip
def test_what_is_refused(small, data, status, wanted):
    answer = small.raw(data, end=False) if status != 421 and b"Content-Length: 0" not in data else small.raw(
        data.replace(b"Host:", b"Connection: close\r\nHost:"), end=False
    )  # fmt: skip
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert code(answer) == wanted
    assert small.ask("GET", "/v2/health/live")[0] == 200


def test_an_empty_header_does_not_swallow_the_next(small):
    answer = small.raw(b"GET /v2 HTTP/1.1\r\nX-Empty:\r\nHost: example.org\r\nConnection: close\r\n\r\n", end=False)
    assert answer.startswith(b"HTTP/1.1 421 ")


@pytest.mark.parametrize(
    "head",
    [b"GET /v2/health/live HTTP/1.1\r\nHost: LocalHost.:8080",
     b"GET HTTP://localhost:1/v2/health/live HTTP/1.1\r\nHost: a",
     b"GET http://127.0.0.1/v2/health/live?a=1 HTTP/1.1"],
)  # fmt: skip
def test_names_of_this_machine_in_other_spellings(small, head):
    answer = small.raw(head + b"\r\nConnection: close\r\n\r\n", end=False)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b'{"live":true}')


def test_a_client_of_the_first_protocol_is_not_left_waiting(small):
    """It takes a connection for kept only where the answer says so in the words of its time."""
    answer = small.raw(b"GET /v2/health/live HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", end=False)
    assert b"connection: close" in answer


OFFER = b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"


@pytest.mark.parametrize("pause", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
def test_who_offers_another_protocol_is_answered_in_this_one(small, tensor, image, chunked, pause):
    """As curl --http2 and Java's client do: with a body, here and there in pieces."""
    body = json.dumps({"inputs": [tensor(image(1, (1, 8, 8, 2)))]}).encode()
    if chunked:
        data = post(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body), b"Transfer-Encoding: chunked", *OFFER)
    else:
        data = post(body, b"Content-Length: %d" % len(body), *OFFER)
    plain = small.raw(post(body, b"Content-Length: %d" % len(body), b"Connection: close"), end=False)
    assert plain.startswith(b"HTTP/1.1 200 ")
    pieces = [data[at : at + 700] for at in range(0, len(data), 700)] if pause else [data]
    with socket.create_connection(("127.0.0.1", small.port), timeout=30) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            link.sendall(piece)
        assert b"".join(iter(lambda: link.recv(1 << 16), b"")) == plain
    # Bounds and what follows are those of other requests.
    assert code(small.raw(post(b"", b"Content-Length: 100001", *OFFER), end=False)) == "body-limit"
    assert code(small.raw(post(b"1\r\na\r\n" * 101, b"Transfer-Encoding: chunked", *OFFER), end=False)) == "http-chunks"
    assert small.raw(data + data, end=False).count(b"HTTP/1.1 ") == 1
    assert b"HTTP/1.1 200 " in small.raw(
        b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n" + b"\r\n".join(OFFER) + b"\r\n\r\n", end=False
    )
    assert "Traceback" not in small.logged()


def test_requests_sent_ahead_are_answered_in_order_up_to_a_bound(small):
    paths = [b"/v2/health/live", b"/v2/models/cat", b"/v2/models/int8/ready"]
    ahead = b"".join(b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path for path in paths)
    answer = small.raw(ahead + b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", end=False)
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404", b"200", b"200"]
    many = post(b"{}", b"Content-Length: 2") * 30
    answer = small.raw(many, end=False)
    assert answer.count(b"HTTP/1.1 ") <= 3
    assert code(answer) == "http-pipelined"


def test_what_follows_a_last_request_is_not_answered(small):
    last = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    for more in (last, b"nonsense\r\n\r\n", b"GET /v2 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"):
        assert small.raw(last + more, end=False).count(b"HTTP/1.1 ") == 1
    assert "Traceback" not in small.logged()


def test_expectations_are_met_before_the_body(small):
    with socket.create_connection(("127.0.0.1", small.port), timeout=10) as link:
        link.sendall(post(b"", b"Expect: 100-continue", b"Content-Length: 2", b"Connection: close"))
        assert link.recv(100).startswith(b"HTTP/1.1 100 ")
        link.sendall(b"{}")
        assert link.recv(100).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("data", "wanted"),
    [(b"", b""),
     (b"GET /v2 HTTP/1.1\r\nHost: ", b"HTTP/1.1 408 "), (post(b"{", b"Content-Length: 2"), b"HTTP/1.1 408 "),
     (b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n", b"HTTP/1.1 200 ")],
)  # fmt: skip
def test_slow_clients_are_let_go(small, data, wanted):
    answer = small.raw(data, end=False)  # the server hangs up, we never do
    assert answer.startswith(wanted)
    assert answer or not wanted


def test_normal_clients_get_through_slow_ones(small):
    slow = [socket.create_connection(("127.0.0.1", small.port), timeout=10) for _ in range(60)]
    try:
        for link in slow:
            link.sendall(b"POST /v2")
        for _ in range(20):
            assert small.ask("GET", "/v2/health/live")[0] == 200
    finally:
        for link in slow:
            link.close()


def test_what_still_arrives_takes_no_place_of_its_client(serve, served, tensor, image, tmp_path):
    config = tmp_path / "serve.toml"
    config.write_text("[bounds]\nclient_requests = 4\n")
    one = serve(served / "int8.tflite", "--config", config)
    slow = [socket.create_connection(("127.0.0.1", one.port), timeout=10) for _ in range(8)]
    try:
        for link in slow:
            link.sendall(post(b"{", b"Content-Length: 100"))
        until = time.monotonic() + 10
        while b"edgekit_body_bytes 8\n" not in one.ask("GET", "/metrics")[2] and time.monotonic() < until:
            time.sleep(0.01)
        assert one.json("POST", "/v2/models/int8/infer", {"inputs": [tensor(image())]})[0] == 200
    finally:
        for link in slow:
            link.close()


def test_bodies_of_all_clients_have_a_bound_together(serve, served, tmp_path):
    config = tmp_path / "serve.toml"
    config.write_text(CONFIG.replace("body_seconds = 0.6", "body_seconds = 60"))  # nobody is too slow meanwhile
    one = serve(served / "int8.tflite", "--config", config)
    # Too small to be announced, and to wait for room: an eighth beyond `buffered` holds 18 of them.
    links = [socket.create_connection(("127.0.0.1", one.port), timeout=10) for _ in range(19)]
    try:
        for link in links:
            link.sendall(post(b"a" * 15_000, b"Content-Length: 15100"))
        answered = select.select(links, [], [], 30)[0]
        assert [code(link.recv(1000)) for link in answered] == ["server-full"]
    finally:
        for link in links:
            link.close()
    # What they held is free again.
    assert one.json("POST", "/v2/models/int8/infer", {"inputs": [], "id": "a" * 90_000})[1]["code"] == "body-field"


def test_who_says_no_more_is_answered_before_the_end(small, tensor, image):
    """As `nc -N` and other tools do that send a file: they end their side behind the request."""
    body = json.dumps({"inputs": [tensor(image())]}).encode()
    asked = post(body, b"Content-Length: %d" % len(body))
    answer = small.raw(asked)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["outputs"]  # whole, also where it came before the end was seen
    ahead = small.raw(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n" + asked * 2)
    assert [part[:3] for part in ahead.split(b"HTTP/1.1 ")[1:]] == [b"200"] * 3
    assert small.raw(asked + asked[:-1]).count(b"HTTP/1.1 ") == 1  # what is not whole was not asked
    assert small.raw(asked[:-1]) == b""


def test_clients_that_leave_give_their_places_back(small, tensor, image):
    body = json.dumps({"inputs": [tensor(image())]}).encode()
    for _ in range(30):
        link = socket.create_connection(("127.0.0.1", small.port), timeout=10)
        link.sendall(post(body, b"Content-Length: %d" % len(body)))
        link.close()
    until = time.monotonic() + 10
    while time.monotonic() < until:
        if small.json("POST", "/v2/models/int8/infer", json.loads(body))[0] == 200:
            break
    else:
        pytest.fail("no answer")


def test_keys(serve, served, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("a" * 20 + "\n" + "b" * 20 + "\n")
    one = serve(served / "int8.tflite", "--host", "0.0.0.0", "--api-key-file", keys)
    assert "in the clear" in one.about["warnings"][0]
    assert one.ask("GET", "/v2/health/live")[0] == 200
    status, headers, said = one.ask("GET", "/v2")
    assert (status, json.loads(said)["code"], headers["WWW-Authenticate"]) == (401, "api-key-wrong", "Bearer")
    assert one.ask("GET", "/v2", headers={"Authorization": "Bearer " + "b" * 20})[0] == 200
    assert one.ask("GET", "/v2", headers={"authorization": "bearer  " + "b" * 20})[0] == 200  # the scheme in any case
    assert one.ask("GET", "/v2", headers={"X-API-Key": "a" * 20})[0] == 200
    for wrong in ("c" * 20, "a" * 19, "a" * 21, "ü" * 20):
        assert one.ask("GET", "/v2", headers={"X-API-Key": wrong.encode()})[0] == 401


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "board.local"])
def test_nobody_elsewhere_without_a_key(host):
    with pytest.raises(UsageError, match="asks for nothing") as caught:
        Access(Settings(host=host))
    assert caught.value.code == "serve-exposed"


def test_keys_that_could_be_guessed_are_no_keys(tmp_path):
    for text in ("", "short\n", "a" * 30 + "\nb\n"):
        (tmp_path / "keys").write_text(text)
        with pytest.raises(UsageError):
            Access(Settings(host="0.0.0.0", api_key_file=str(tmp_path / "keys")))


def test_a_unix_socket(serve, served, tmp_path):
    path = tmp_path / "edgekit.sock"
    one = serve(served / "int8.tflite", "--socket", path, "--no-host")
    assert one.about["addresses"] == [f"unix:{path}"]

    def ask():
        link = http.client.HTTPConnection("anything")
        link.sock = socket.socket(socket.AF_UNIX)
        link.sock.connect(str(path))
        link.request("GET", "/v2/models/int8/ready")
        status = link.getresponse().status
        link.close()
        return status

    assert ask() == 200
    with pytest.raises(UsageError) as caught:
        start((str(served),), Settings(host=None, socket=str(path)), announce=print)
    assert caught.value.code == "serve-listen"
    assert one.stop()[0] == 0
    assert not path.exists()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """An authority, and what it signed for the server and for a client: PEM files."""
    pytest.importorskip("cryptography")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    folder = tmp_path_factory.mktemp("certificates")
    long_ago, far = dt.datetime(2020, 1, 1, tzinfo=dt.UTC), dt.datetime(2100, 1, 1, tzinfo=dt.UTC)
    authority = ec.generate_private_key(ec.SECP256R1())

    def make(name, key, issuer, *, own):
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number(), long_ago, far)
        made = made.add_extension(x509.BasicConstraints(ca=own, path_length=None), critical=True)
        made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        signed = made.sign(authority, hashes.SHA256())
        (folder / f"{name}.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        plain = serialization.NoEncryption()
        kind = serialization.PrivateFormat.PKCS8
        (folder / f"{name}.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, kind, plain))
        return subject

    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
    make("authority", authority, issuer, own=True)
    for name in ("board", "client"):
        make(name, ec.generate_private_key(ec.SECP256R1()), issuer, own=False)
    return folder


def test_certificates_both_ways(serve, served, certificates, tensor, image):
    board = ("--certificate", certificates / "board.pem", "--certificate-key", certificates / "board.key")
    one = serve(served / "int8.tflite", "--host", "0.0.0.0", "--client-ca", certificates / "authority.pem", *board)
    assert one.about["addresses"][0].startswith("https://")
    assert one.about["warnings"] == []
    context = ssl.create_default_context(cafile=certificates / "authority.pem")
    body = json.dumps({"inputs": [tensor(image(shape=(40, 8, 8, 2)))]})

    def ask():
        link = http.client.HTTPSConnection("localhost", one.port, context=context, timeout=60)
        try:
            for _ in range(3):
                link.request("POST", "/v2/models/int8/infer", body)
                answer = link.getresponse()
                answer.read()
            return answer.status
        finally:
            link.close()

    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask()
    context.load_cert_chain(certificates / "client.pem", certificates / "client.key")
    assert ask() == 200
    assert one.raw(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n") == b""
