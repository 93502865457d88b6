"""`edgekit serve` beside MLServer, KServe's Python server and BentoML: one model, one client, in turn, several rounds.

    make serve-peers                                # installs all, each in an environment of its own, and runs this
    python benchmarks/serve_peers.py ENVIRONMENTS MODEL.onnx [--rounds N] [--seconds N] [--write]

Every server has one worker and one thread for onnxruntime, and answers the same body of the Open Inference Protocol in
JSON. The client is `wrk` with one thread and 1, 8 and 32 connections. Memory is the proportional set size of the
server's processes under its last load, start the time from the command to the first right answer, install size what
pip put into the environment besides pip itself. Medians over rounds. A load during which other processes had more than
a tenth of a core is repeated, and the least disturbed counts; `others` tells what that one still saw, at most: a job
beside makes the 99th percentile that of the system's scheduler. One JSON line a server; --write puts them into
docs/serve.md.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pages

HERE = Path(__file__).parent
SERVICES = HERE / "serve_peers"
CONNECTIONS = (1, 8, 32)
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_FIRST_PORT = 18300
_CALM, _TRIES = 0.1, 5
"""Cores that others may have during a load, and how often one is repeated for that."""


@dataclass
class Server:
    """One of them.

    Attributes:
        name: Also of its environment's folder.
        command: Arguments; `{bin}`, `{port}` and `{folder}` are put in.
        answers: Path that answers.
    """

    name: str
    command: tuple[str, ...]
    answers: str = "/v2/models/model/infer"


SERVERS = (
    Server("edgekit", ("{bin}/edgekit", "serve", "{folder}/model.onnx", "--port", "{port}", "--threads", "1")),
    Server("mlserver", ("{bin}/mlserver", "start", "{folder}")),
    Server("kserve", ("{bin}/python", str(SERVICES / "kserve_model.py"))),
    Server(
        "bentoml",
        ("{bin}/bentoml", "serve", "bentoml_service:Onnx", "--port", "{port}", "--working-dir", str(SERVICES)),
    ),
)


def body_of(model: Path) -> tuple[bytes, list[float]]:
    """A request of seeded numbers for a model of one input, and what onnxruntime answers."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model))
    (about,) = session.get_inputs()
    shape = [size if isinstance(size, int) else 1 for size in about.shape]
    values = np.random.default_rng(0).random(shape).astype(np.float32).round(4)
    answer = session.run(None, {about.name: values})[0]
    tensor = {"name": about.name, "shape": shape, "datatype": "FP32", "data": values.ravel().tolist()}
    return json.dumps({"inputs": [tensor]}).encode(), answer.ravel().tolist()


def settings(folder: Path, port: int) -> None:
    """MLServer's two files."""
    (folder / "settings.json").write_text(
        json.dumps({"http_port": port, "grpc_port": port + 100, "metrics_port": port + 200, "parallel_workers": 0})
    )
    (folder / "model-settings.json").write_text(json.dumps({"name": "model", "implementation": "mlserver_model.Onnx"}))


@contextmanager
def running(
    server: Server, environments: Path, folder: Path, port: int, body: bytes, wanted: list[float]
) -> Iterator[tuple[str, int, float]]:
    """Its address, process and start time in seconds."""
    binaries = environments / server.name / "bin"
    command = [part.format(bin=binaries, port=port, folder=folder) for part in server.command]
    environment = {
        **os.environ, "MODEL": str(folder / "model.onnx"), "PORT": str(port), "PYTHONPATH": str(SERVICES),
        "BENTOML_DO_NOT_TRACK": "True", "OMP_NUM_THREADS": "1", "PATH": f"{binaries}:{os.environ['PATH']}",
    }  # fmt: skip
    begun = time.perf_counter()
    with (folder / f"{server.name}.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{port}{server.answers}"
    try:
        while True:
            try:
                answer = json.loads(post(address, body))
                break
            except OSError:
                if process.poll() is not None or time.perf_counter() - begun > 120:
                    raise SystemExit((folder / f"{server.name}.log").read_text()[-2000:]) from None
                time.sleep(0.02)
        took = time.perf_counter() - begun
        np.testing.assert_allclose(np.ravel(answer["outputs"][0]["data"]), wanted, rtol=1e-3, atol=1e-5)
        yield address, process.pid, took
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def post(address: str, body: bytes) -> bytes:
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return bytes(answer.read())


def load(address: str, script: Path, connections: int, seconds: float) -> dict[str, float]:
    """What wrk saw: requests a second and milliseconds."""
    done = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-s", str(script), address],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise SystemExit(done.stdout)
    seen = {
        share: float(value) * _UNITS[unit]
        for share, value, unit in re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s)", done.stdout)
    }
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    assert rate is not None
    return {"rps": float(rate[1]), "p50_ms": seen["50"], "p99_ms": seen["99"]}


def calm_load(address: str, script: Path, connections: int, seconds: float, pid: int) -> dict[str, float]:
    """The least disturbed of some loads, with the cores that others had meanwhile."""
    tries: list[dict[str, float]] = []
    while len(tries) < _TRIES and not (tries and tries[-1]["others"] <= _CALM):
        begun, others = time.perf_counter(), others_seconds(pid)
        seen = load(address, script, connections, seconds)
        share = (others_seconds(pid) - others) / (time.perf_counter() - begun)
        tries.append({**seen, "others": max(share, 0.0)})
    return min(tries, key=lambda one: one["others"])


def others_seconds(pid: int) -> float:
    """Seconds of cores that were spent so far, but for a server, its processes and the loads that ended."""
    user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:8])
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
    return total - own.ru_utime - own.ru_stime - sum(map(spent, family(pid)))


def spent(pid: int) -> float:
    """Seconds of cores that the threads of a process had."""
    try:
        return (
            sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9
        )
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


def family(pid: int) -> Iterator[int]:
    """A process and all below it."""
    todo = [pid]
    while todo:
        at = todo.pop()
        yield at
        try:
            for task in Path(f"/proc/{at}/task").iterdir():
                todo += map(int, (task / "children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue


def memory(pid: int) -> float:
    """MiB of a process and all below it, shared pages divided among those that share them."""
    total = 0
    for at in family(pid):
        try:
            found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{at}/smaps_rollup").read_text(), re.MULTILINE)
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += int(found[1]) if found else 0
    return total / 1024


def installed(environment: Path) -> float:
    """MB that pip put there, besides pip and setuptools."""
    (packages,) = environment.glob("lib/python3*/site-packages")
    skipped = {"pip", "setuptools", "pkg_resources", "_distutils_hack", "__pycache__"}
    files = (
        file for top in packages.iterdir() if top.name.partition("-")[0] not in skipped
        for file in ([top] if top.is_file() else top.rglob("*")) if file.is_file() and file.suffix != ".pyc"
    )  # fmt: skip
    return sum(file.stat().st_size for file in files) / 1e6


def main() -> None:
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    named = dict(zip(sys.argv[1:], sys.argv[2:], strict=False))
    rounds, seconds = int(named.get("--rounds", 3)), float(named.get("--seconds", 4))
    environments, model = Path(arguments[0]).resolve(), Path(arguments[1]).resolve()
    body, wanted = body_of(model)
    seen: dict[str, dict[str, list[float]]] = {server.name: {} for server in SERVERS}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shutil.copy(model, folder / "model.onnx")
        (folder / "body.json").write_bytes(body)
        script = folder / "post.lua"
        script.write_text(
            'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\n'
            f'wrk.body = io.open("{folder}/body.json"):read("*a")\n'
        )
        for number in range(rounds):
            for place, server in enumerate(SERVERS):
                port = _FIRST_PORT + 10 * number + place
                settings(folder, port)
                with running(server, environments, folder, port, body, wanted) as (address, pid, took):
                    row = seen[server.name]
                    row.setdefault("start_s", []).append(took)
                    load(address, script, 4, 1)  # warm
                    for connections in CONNECTIONS:
                        for name, value in calm_load(address, script, connections, seconds, pid).items():
                            row.setdefault(f"{name}_{connections}", []).append(value)
                    row.setdefault("memory_mib", []).append(memory(pid))
    rows = []
    for server in SERVERS:
        row = seen[server.name]
        others = max(max(values) for name, values in row.items() if name.startswith("others"))
        medians = {name: round(statistics.median(values), 3) for name, values in row.items() if "others" not in name}
        medians["others"] = round(others, 2)
        rows.append({"server": server.name, **medians, "installed_mb": round(installed(environments / server.name), 1)})
        print(json.dumps(rows[-1]), flush=True)
    if "--write" in sys.argv:
        pages.put("peers", table(rows), HERE.parent / "docs" / "serve.md")


def table(rows: list[dict[str, object]]) -> str:
    clients = " / ".join(map(str, CONNECTIONS))
    head = f"| server | answers a second ({clients} clients) | median in ms | p99 in ms | start in s | memory in MiB "
    lines = [f"{head}| installed in MB |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        rates = " / ".join(f"{row[f'rps_{count}']:.0f}" for count in CONNECTIONS)
        middles, tails = (
            " / ".join(f"{row[f'{which}_ms_{count}']:.3g}" for count in CONNECTIONS) for which in ("p50", "p99")
        )
        lines.append(
            f"| {row['server']} | {rates} | {middles} | {tails} | {row['start_s']:.2f} | {row['memory_mib']:.0f} "
            f"| {row['installed_mb']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
