"""The server against its own OpenAPI document: schemathesis asks what it allows, and what it does not.

    make serve-schema                                              # installs schemathesis in an environment of its own
    python benchmarks/serve_schema.py SCHEMATHESIS [MODEL ...] [--cases 5000]

SCHEMATHESIS is its command. Without models, two that are made here are served: one takes JSON of any batch, the other
two vectors. Runs of other seeds follow each other until so many cases were sent. An answer of 5xx and one that the
document does not describe are failures. Prints a JSON line a run; exits with 1 after a failure.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("schemathesis", type=Path)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--cases", type=int, default=5000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = options.models or made(Path(folder))
        server = subprocess.Popen(
            [sys.executable, "-m", "edgekit", "serve", *models, "--port", "0", "--json", "--threads", "1"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        said = ""
        while not said.rstrip().endswith("\n}"):
            said += server.stdout.readline()
        address = json.loads(said)["addresses"][0]
        sent, failed, seed = 0, False, 0
        try:
            while sent < options.cases:
                seed += 1
                run = one(options.schemathesis, address, seed)
                print(json.dumps(run), flush=True)
                sent += run["cases"]
                failed = failed or not run["passed"]
        finally:
            server.send_signal(signal.SIGTERM)
            code = server.wait(20)
    print(json.dumps({"what": "all", "runs": seed, "cases": sent, "passed": not failed, "server_exit": code}))
    sys.exit(int(failed or code != 0))


def made(folder: Path) -> list[str]:
    """Two small graphs as files."""
    from onnx import TensorProto, helper, save

    def tensor(name: str, kind: int, shape: list[object]) -> object:
        return helper.make_tensor_value_info(name, kind, shape)

    graphs = {
        "any": ([helper.make_node("Relu", ["x"], ["y"])], [tensor("x", TensorProto.FLOAT, ["n", 4])],
                [tensor("y", TensorProto.FLOAT, ["n", 4])]),
        "two": ([helper.make_node("Add", ["a", "b"], ["c"])],
                [tensor("a", TensorProto.INT64, [3]), tensor("b", TensorProto.INT64, [3])],
                [tensor("c", TensorProto.INT64, [3])]),
    }  # fmt: skip
    for name, (nodes, inputs, outputs) in graphs.items():
        graph = helper.make_graph(nodes, name, inputs, outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        save(model, folder / f"{name}.onnx")
    return [str(folder)]


def one(command: Path, address: str, seed: int) -> dict[str, object]:
    done = subprocess.run(
        [str(command), "run", f"{address}/openapi.json", "--checks", CHECKS, "--max-examples", "100", "--mode", "all",
         "--seed", str(seed), "--phases", "examples,coverage,fuzzing", "--continue-on-failure", "--no-color",
         "--suppress-health-check=too_slow"],  # which is of the machine that makes up the requests
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = re.search(r"(\d+) generated", done.stdout)
    if found is None:
        raise SystemExit(f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    if done.returncode:
        print(done.stdout[-6000:], file=sys.stderr)
    return {"what": "run", "seed": seed, "cases": int(found[1]), "passed": done.returncode == 0}


if __name__ == "__main__":
    main()
