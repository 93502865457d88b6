"""A server with ten times the load that it can bear: goodput, refusals, probes, deadlines, memory.

    python benchmarks/serve_load.py MODEL [--seconds 60] [--connections N ...]

needs wrk (apt-get install wrk). Prints JSON lines. First the capacity: the most that wrk gets answered with 8, 16, 32
or 64 connections, which all may wait, and how few of them get nearly all of that. Then the overload, by default of ten
times those few connections (and at least as many as offer ten times the capacity, where that is within the bound of
connections): the share of the capacity that is still answered, how long refusals and `/v2/health/live` take, how late
deadlines are kept, and what the memory grew by. A client that is refused asks again at once, so that what is offered
follows from the connections and from how long refusals are held back. `cores` tells who was at work, wrk among them.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

LUA = """
local file = io.open(os.getenv("BODY"), "rb")
wrk.method, wrk.body = "POST", file:read("*a")
file:close()
wrk.headers[os.getenv("HEADER")] = os.getenv("VALUE")
"""
PACE, QUEUE = 0.03, 64  # how long refusals are held back at most, how many requests wait: see edgekit/serve
MOST = 1000  # of the 1,024 connections that a server takes; the probes have some
NEARLY = 0.95


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--connections", type=int, nargs="*", help="of the overload; default: see above")
    parser.add_argument("--predict", type=Path, metavar="FILE.jpg", help="send this picture in place of a tensor")
    parser.add_argument("--deadline-ms", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(options.model)
        try:
            work = Work(server, Path(folder), options.predict)
            work.wrk(8, 1)  # warm
            rates = {count: work.wrk(count, 5)["answered"] for count in (8, 16, 32, 64)}
            capacity = max(rates.values())
            few = next(count for count, rate in rates.items() if rate >= NEARLY * capacity)
            rounded = {count: round(rate, 1) for count, rate in rates.items()}
            print(json.dumps({"what": "capacity", "per_second": rounded, "saturating": few}), flush=True)
            enough = QUEUE + round(10 * capacity * PACE)
            for connections in options.connections or [max(10 * few, enough) if enough <= MOST else 10 * few]:
                overload(server, work, capacity, connections, options)
        finally:
            server.stop()


def overload(server: Server, work: Work, capacity: float, connections: int, options: argparse.Namespace) -> None:
    before = server.memory()
    over = threading.Event()
    probes = {
        "live": Prober(over, lambda: server.get("/v2/health/live"), 0.05),
        "refusals": Prober(over, work.client({}), 0.05),
        "deadlines": Prober(over, work.client({"Edgekit-Deadline-Ms": str(options.deadline_ms)}), 0.05),
    }
    for probe in probes.values():
        probe.start()
    found = work.wrk(connections, options.seconds)
    over.set()
    for probe in probes.values():
        probe.join()
    refused = [seconds for seconds, status in probes["refusals"].seen if status in (429, 503)]
    late = [seconds - options.deadline_ms / 1000 for seconds, _ in probes["deadlines"].seen]
    print(json.dumps({
        "what": "overload", "connections": connections, "offered_per_second": round(found["offered"], 1),
        "times_capacity": round(found["offered"] / capacity, 1), "answered_per_second": round(found["answered"], 1),
        "goodput": round(found["answered"] / capacity, 3), "cores": found["cores"],
        "refusal_p99_ms": percentile(refused, 99), "refusals": len(refused),
        "live_p99_ms": percentile([s for s, _ in probes["live"].seen], 99), "live": len(probes["live"].seen),
        "live_failed": sum(status != 200 for _, status in probes["live"].seen),
        "deadline_ms": options.deadline_ms, "deadlines": len(late), "beyond_50_ms": sum(s > 0.05 for s in late),
        "latest_ms": round(1000 * max(late), 1),
        "grown_mib": {name: round(now - before[name], 1) for name, now in server.memory().items()},
        "codes": server.counts(),
    }), flush=True)  # fmt: skip


def percentile(seconds: list[float], share: float) -> float | None:
    return round(1000 * float(np.percentile(seconds, share)), 1) if seconds else None


class Server:
    def __init__(self, model: Path, *arguments: str) -> None:
        self.name = model.stem
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edgekit", "serve", str(model), "--port", "0", "--json", "--threads", "1",
             *arguments],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        said = ""
        while not said.rstrip().endswith("\n}"):
            said += self.process.stdout.readline()
        self.port = int(json.loads(said)["addresses"][0].rpartition(":")[2])
        self.about = json.loads(self.get(f"/v2/models/{self.name}", body=True))

    def get(self, path: str, *, body: bool = False):
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        link.request("GET", path)
        answer = link.getresponse()
        data = answer.read()
        link.close()
        return data if body else answer.status

    def memory(self) -> dict[str, float]:
        """Resident MiB of the server and its workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return {"server": rss(self.process.pid), "workers": sum(rss(int(pid)) for pid in children)}

    def busy(self) -> dict[str, float]:
        """Seconds of cores that the server and its workers had."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return {"server": cpu(self.process.pid), "workers": sum(cpu(int(pid)) for pid in children)}

    def counts(self) -> dict[str, float]:
        text = self.get("/metrics", body=True).decode()
        found = re.findall(r'edgekit_requests_total\{model="[^"]*",kind="([^"]*)"\} (\S+)', text)
        return {kind: float(value) for kind, value in found}

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)


def rss(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def cpu(pid: int) -> float:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


class Work:
    """Requests of one sample, in bytes."""

    def __init__(self, server: Server, folder: Path, picture: Path | None) -> None:
        self._server = server
        self.path = f"/v2/models/{server.name}/{'predict' if picture else 'infer'}"
        self._file, self._script = folder / "body", folder / "post.lua"
        self._script.write_text(LUA)
        self._body, self._headers = self._tensor() if picture is None else self._picture(picture)
        self._file.write_bytes(self._body)

    @staticmethod
    def _picture(path: Path) -> tuple[bytes, dict[str, str]]:
        return path.read_bytes(), {"Content-Type": "image/jpeg"}

    def _tensor(self) -> tuple[bytes, dict[str, str]]:
        server = self._server
        given = server.about["inputs"][0]
        shape = [1 if size < 0 else size for size in given["shape"]]
        data = np.random.default_rng(0).random(shape, np.float32).tobytes()
        about = {"name": given["name"], "datatype": "FP32", "shape": shape}
        about["parameters"] = {"binary_data_size": len(data)}
        head = json.dumps({"inputs": [about], "parameters": {"binary_data_output": True}}).encode()
        return head + data, {"Inference-Header-Content-Length": str(len(head))}

    def client(self, headers: dict[str, str]) -> Callable[[], int]:
        """Asks over a connection that stays, as the flood does, and tells the status."""
        link = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=30)

        def ask() -> int:
            link.request("POST", self.path, self._body, {**self._headers, **headers})
            answer = link.getresponse()
            answer.read()
            return answer.status

        return ask

    def wrk(self, connections: int, seconds: int) -> dict[str, Any]:
        answered = self._server.counts().get("answered", 0.0)
        busy, own = self._server.busy(), resource.getrusage(resource.RUSAGE_CHILDREN)
        ((name, value),) = self._headers.items()
        begun = time.monotonic()
        done = subprocess.run(
            ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(self._script),
             f"http://127.0.0.1:{self._server.port}{self.path}"],
            env={**os.environ, "BODY": str(self._file), "HEADER": name, "VALUE": value}, check=True, text=True,
            capture_output=True,
        )  # fmt: skip
        took = time.monotonic() - begun
        answered = self._server.counts()["answered"] - answered
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        cores = {part: round((now - busy[part]) / took, 2) for part, now in self._server.busy().items()}
        cores["wrk"] = round((used.ru_utime + used.ru_stime - own.ru_utime - own.ru_stime) / took, 2)
        total = int(re.search(r"(\d+) requests in", done.stdout)[1])
        return {"offered": total / took, "answered": answered / took, "cores": cores}


class Prober(threading.Thread):
    """Asks again and again; `seen` has seconds and status of each."""

    def __init__(self, over: threading.Event, ask, every: float) -> None:
        super().__init__()
        self._over, self._ask, self._every = over, ask, every
        self.seen: list[tuple[float, int]] = []

    def run(self) -> None:
        while not self._over.wait(self._every):
            begun = time.monotonic()
            status = self._ask()
            self.seen.append((time.monotonic() - begun, status))


if __name__ == "__main__":
    main()
