"""The wheel for boards: everything that a board uses and nothing of a desk, and it runs with numpy and one engine."""

from __future__ import annotations

import ast
import functools
import http.client
import json
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest

import edgekit
from edgekit import doctor, parts
from edgekit.errors import EdgeKitError

ROOT = Path(__file__).resolve().parents[2]
DOORS = {
    ("edgekit.cli.cmd_bench", "edgekit.report"),  # all three refuse before anything is measured
    ("edgekit.cli.cmd_check", "edgekit.report"),
    ("edgekit.cli.cmd_profile", "edgekit.report"),
    ("edgekit.profiling", "edgekit.converters.cut"),  # says `profile-tools-missing`
}
"""What a board may ask for and does not have: (who asks, for what)."""
ENGINE = ("numpy", "ai-edge-litert")
COMMANDS = ("click", "rich", "markdown-it-py", "mdurl", "pygments")
SERVING = ("httptools", "orjson")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*command, str(ROOT / "distributions/runtime")], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def modules(wheel):
    """Name -> source."""
    with zipfile.ZipFile(wheel) as archive:
        return {
            name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): archive.read(name).decode()
            for name in archive.namelist()
            if name.endswith(".py")
        }


def test_it_is_small(wheel):
    assert wheel.stat().st_size < 1_000_000


def test_it_is_of_the_same_version_and_license_as_the_sdk(wheel):
    assert wheel.name == f"edgekit_runtime-{edgekit.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())


def test_it_holds_what_is_not_of_the_desk(modules, wheel):
    sources = {"edgekit": "edgekit"} | {
        f"edgekit.{name}": name for name in ("runtimes", "device_profiles", "converters")
    }
    expected = set()
    for package, folder in sources.items():
        for file in (ROOT / folder).rglob("*.py"):
            if any(p.is_symlink() for p in file.parents):
                continue
            inside = [part for part in file.relative_to(ROOT / folder).with_suffix("").parts if part != "__init__"]
            name = ".".join([package, *inside])
            if parts.place_of(name) != "desk":
                expected.add(name)
    assert set(modules) == expected
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"edgekit/explanations.toml", "edgekit/parts.toml", "edgekit/py.typed", "edgekit/serve/page.html"} <= names
    assert {"edgekit/device_profiles/raspberry-pi-4b.toml", "edgekit/memory/memory.toml"} <= names
    assert not [name for name in names if name.startswith(("edgekit/converters", "edgekit/tune"))]


def test_every_module_that_one_of_it_imports_is_in_it(modules):
    missing = {
        (module, name) for module, source in modules.items() for name in imported(source)
        if parts.place_of(name) == "desk" and not (module == "edgekit" and name in edgekit._HOME.values())
    }  # fmt: skip
    assert missing == DOORS
    unknown = {(m, n) for m, source in modules.items() for n in imported(source) if not known(n, modules)}
    assert unknown <= missing | {("edgekit", name) for name in edgekit._HOME.values()}


def test_what_is_carried_over_ssh_imports_nothing_that_stays(modules):
    carried = {name: source for name, source in modules.items() if parts.place_of(name) == "everywhere"}
    staying = {(m, n) for m, source in carried.items() for n in imported(source) if parts.place_of(n) != "everywhere"}
    assert {(m, n) for m, n in staying if m != "edgekit"} <= {
        ("edgekit.targets.boards", "edgekit.targets.pricing"),
    }


@functools.cache
def imported(source: str) -> set[str]:
    """Modules of ours, wherever in the source they are imported; not those that only type checkers see."""
    tree = ast.parse(source)
    skipped = {id(n) for i in ast.walk(tree) if isinstance(i, ast.If) and "TYPE_CHECKING" in ast.dump(i.test)
               for n in ast.walk(i)}  # fmt: skip
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "edgekit":
            found |= {f"edgekit.{alias.name}" for alias in node.names if not alias.name.startswith("_")}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name for name in found if name.startswith("edgekit.")}


def known(name: str, modules: dict[str, str]) -> bool:
    return name in modules or name.removeprefix("edgekit.") in edgekit.__all__


@pytest.fixture(scope="module")
def board(wheel, tmp_path_factory):
    """A Python that has the wheel, numpy, one engine and what commands and `serve` need, and nothing else."""
    folder = tmp_path_factory.mktemp("board") / "venv"
    venv.create(folder, symlinks=True, with_pip=False)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    for name in (*ENGINE, *COMMANDS, *SERVING):
        found = distribution(name)
        for top in {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(found.locate_file(top))))
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, "--disable-pip-version-check", str(wheel)], check=True, capture_output=True)
    return folder / "bin"


@pytest.fixture(scope="module")
def artifact(tiny_files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    np.savez(folder / "calibration.npz", x=np.random.default_rng(1).random((60, 8, 8, 2), np.float32))
    about = {"interpret": {"task": "classification", "labels": list("abcde"), "scores": "probabilities"}}
    path = folder / "tiny.tflite"
    edgekit.convert(tiny_files["tflite"], output=path, precision="int8", calibration=folder / "calibration.npz",
                    metadata=about)  # fmt: skip
    return path


APP = """
import json, sys
import edgekit
with edgekit.load(sys.argv[1], threads=1) as model:
    import numpy as np
    dice = np.random.default_rng(0)
    answer = model.predict(dice.random((8, 8, 2), np.float32))
    assert answer.label in "abcde", answer
tops = sorted({name.partition(".")[0] for name, module in sys.modules.items() if getattr(module, "__file__", None)})
with edgekit.load(sys.argv[1], threads=1, metrics=edgekit.Metrics("app")) as model:
    monitor = model.monitor()
    for number in range(300):
        model.predict(dice.random((8, 8, 2), np.float32) + 4)  # nothing like what it was calibrated with
    alarms = len(monitor.alarms)
try:
    edgekit.convert
except edgekit.EdgeKitError as error:
    refused = [error.code, error.next_step]
print(json.dumps({"tops": tops, "stdlib": sorted(sys.stdlib_module_names), "alarms": alarms, "refused": refused}))
"""


def test_an_app_predicts_and_is_watched_with_numpy_and_one_engine_alone(board, artifact):
    done = subprocess.run([board / "python", "-I", "-c", APP, artifact], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    ours = {top for top in seen["tops"] if top not in seen["stdlib"] and not top.startswith(("_", "sitecustomize"))}
    assert ours == {"edgekit", "numpy", "ai_edge_litert"}
    assert seen["alarms"] > 0
    assert seen["refused"][0] == "desk-only"
    assert "pip install edgekit-sdk" in seen["refused"][1]


def command(board, *words) -> tuple[int, dict]:
    done = subprocess.run([board / "edgekit", *words, "--json"], capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout)


def test_its_commands_measure_judge_and_keep_models(board, artifact, tmp_path):
    code, seen = command(board, "bench", artifact, "--seconds", "0.05", "--runs", "5")
    assert code == 0
    assert seen["latency_ms"]["p50"] > 0
    assert command(board, "check", artifact, "--device", "raspberry-pi-4b")[1]["fits"] is True
    assert command(board, "verify", artifact)[0] == 0
    store = ("--store", str(tmp_path / "store"))
    assert command(board, "deploy", artifact, "local", "--name", "tiny", *store)[0] == 0
    assert command(board, "status", *store)[1]["models"]
    code, seen = command(board, "doctor")
    assert code == 0
    assert seen["modules"] == []  # nobody converts here


def test_its_server_answers(board, artifact):
    run = [board / "edgekit", "serve", artifact, "--port", "0", "--json"]
    with subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            said = ""
            while not said.rstrip().endswith("\n}") and (line := server.stdout.readline()):
                said += line
            port = int(json.loads(said)["addresses"][0].rpartition(":")[2])
            link = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            link.request("GET", "/v2/models/tiny")
            assert json.loads(link.getresponse().read())["inputs"][0]["name"] == "image"
            link.close()
        finally:
            server.terminate()


@pytest.mark.parametrize("words", [["convert", "m.keras", "-o", "m.tflite"], ["tune", "m.keras"], ["drift", "report"],
                                   ["bench", "m.tflite", "--report", "m.html"]])  # fmt: skip
def test_the_work_of_a_desk_is_refused_by_name(board, words):
    code, seen = command(board, *words)
    assert (code, seen["error"]["code"]) == (7, "desk-only")
    assert "pip install edgekit-sdk" in seen["error"]["next_step"]


def test_help_lists_what_there_is(board):
    shown = subprocess.run([board / "edgekit", "--help"], capture_output=True, text=True, check=True).stdout
    listed = {line.split()[0] for line in shown.partition("Commands:")[2].splitlines() if line.startswith("  ")}
    assert {"bench", "serve", "deploy", "doctor"} <= listed
    assert not listed & set(parts.desk_commands())


def test_what_is_missing_is_asked_of_the_distribution_that_is_there(board):
    assert parts.install("onnx") == 'pip install "edgekit-sdk[onnx]"'
    code = "from edgekit import parts; print(parts.install('onnx'))"
    done = subprocess.run([board / "python", "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'pip install "edgekit-runtime[onnx]"'


def installed(folder: Path, name: str, version: str) -> None:
    about = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_both_in_one_environment_are_named_and_a_mixture_converts_nothing(tmp_path, monkeypatch, tiny_files):
    installed(tmp_path, parts.RUNTIME, "0.0.9")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert parts.both() == (edgekit.__version__, "0.0.9")
    (found,) = [one for one in doctor._here() if one.name == parts.RUNTIME]
    assert found.status == "broken"
    assert "pip uninstall" in found.fix
    with pytest.raises(EdgeKitError, match="mixed") as refused:
        edgekit.convert(tiny_files["tflite"], output=tmp_path / "made.tflite")
    assert refused.value.code == "installed-twice"
    assert not (tmp_path / "made.tflite").exists()


def test_both_of_one_version_are_the_same_files(tmp_path, monkeypatch, tiny_files):
    installed(tmp_path, parts.RUNTIME, edgekit.__version__)
    monkeypatch.syspath_prepend(str(tmp_path))
    parts.refuse_a_mixture()
    assert [one.name for one in doctor._here() if one.status == "broken"] == [parts.RUNTIME]
