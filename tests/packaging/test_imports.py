"""What gets imported when: by module names, in a fresh process."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"tensorflow", "keras", "tf_keras", "torch", "onnx", "onnxruntime", "ai_edge_litert", "ai_edge_quantizer",
         "tf2onnx", "sklearn", "PIL", "flatbuffers", "h5py", "httptools", "orjson"}  # fmt: skip
LEVELS = [
    {"errors", "codec", "tensors", "files", "registry", "child", "early", "feeding", "reading",
     "parts"},
    {"precision", "interface", "manifest", "selftest", "artifact", "device_profiles", "formats", "gate", "memory",
     "micro", "predict", "inspect", "options", "metadata", "data_ref", "rules", "store",
     "saturation"},
    {"runtimes", "monitor"},
    {"data_columns", "data_tables", "data", "sample_axis", "data_objects", "metrics", "targets", "measure", "doctor",
     "serve"},
    {"converters", "deploy", "collect"},
    {"conversion", "data_given", "lifting", "teaching"},
    {"pipeline", "profiling", "debugging", "testing", "report"},
    {"tune", "retraining"},
    {"cli", "__main__", "pytest_plugin"},
]  # fmt: skip


def modules_after(code: str) -> set[str]:
    script = f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_importing_edgekit_imports_neither_numpy_nor_click():
    assert not modules_after("import edgekit") & (HEAVY | {"numpy", "click", "rich"})


def test_help_imports_neither_numpy_nor_a_framework():
    code = "import io, contextlib, edgekit.cli\nwith contextlib.redirect_stdout(io.StringIO()): "
    commands = ["--help", "convert --help", "explain usage", "devices list --json"]
    for command in commands:
        seen = modules_after(f"{code}assert edgekit.cli.run({command.split()!r}) == 0")
        assert not seen & (HEAVY | {"numpy"}), command


def sources(folder: str) -> list[Path]:
    return sorted(p for p in (ROOT / folder).glob("**/*.py") if not any(q.is_symlink() for q in p.parents))


@pytest.mark.parametrize("folder", ["converters", "runtimes", "device_profiles", "edgekit"])
def test_no_module_imports_a_framework_at_its_top(folder):
    for file in sources(folder):
        for node in ast.parse(file.read_text()).body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            tops = {name.partition(".")[0] for name in names}
            assert not tops & HEAVY, f"{file.relative_to(ROOT)}:{node.lineno} imports {tops} at its top"
            assert not tops & {"converters", "runtimes", "device_profiles"}, f"{file}: say edgekit.{tops}"


def test_imports_go_down_only():
    """Module-level and function-level imports of edgekit.* never point to a higher level."""
    level = {name: rank for rank, names in enumerate(LEVELS) for name in names}
    wrong = []
    for folder, part in [("edgekit", None), ("converters", "converters"), ("runtimes", "runtimes"),
                         ("device_profiles", "device_profiles")]:  # fmt: skip
        for file in sources(folder):
            mine = part or file.relative_to(ROOT / "edgekit").parts[0].removesuffix(".py")
            if mine == "__init__":
                continue  # the public names, resolved on first use
            tree = ast.parse(file.read_text())
            guarded = {id(n) for i in ast.walk(tree) if isinstance(i, ast.If) and "TYPE_CHECKING" in ast.dump(i.test)
                       for n in ast.walk(i)}  # fmt: skip
            for node in ast.walk(tree):
                if id(node) in guarded:
                    continue
                for name in _imported(node):
                    parts = name.split(".")
                    if parts[0] != "edgekit" or len(parts) < 2 or parts[1] not in level:
                        continue
                    assert mine in level, f"{file}: give {mine!r} a level"
                    if level[parts[1]] > level[mine]:
                        wrong.append(f"{file.relative_to(ROOT)}:{node.lineno} imports {name}")
    assert wrong == []


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "edgekit" else [node.module]
    return []


def test_no_function_stands_twice():
    """But for what a board runs by itself, before anything of ours is there (`edgekit.targets.ssh_wire.program`)."""
    alone = {"ssh_board.py", "ssh_keeper.py"}
    found: dict[str, list[str]] = {}
    for folder in ("converters", "runtimes", "device_profiles", "edgekit"):
        for file in sources(folder):
            for node in ast.walk(ast.parse(file.read_text())):
                if file.name in alone or not isinstance(node, ast.FunctionDef):
                    continue
                body = [part for part in node.body if not isinstance(getattr(part, "value", None), ast.Constant)]
                if len(code := ast.dump(ast.Module(body, []))) > 600:
                    found.setdefault(code, []).append(f"{file.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert [places for places in found.values() if len(places) > 1] == []


def test_every_module_imports_with_numpy_alone():
    """Engines, frameworks, Pillow, click and rich are hidden; the command line is exempt from the last two."""
    names = []
    for folder, base in [
        ("converters", "edgekit.converters"),
        ("runtimes", "edgekit.runtimes"),
        ("edgekit", "edgekit"),
    ]:
        for file in sources(folder):
            relative = file.relative_to(ROOT / folder).with_suffix("")
            if relative.parts[0] == "cli" or relative.name in ("__main__", "pytest_plugin"):
                continue
            dotted = ".".join(part for part in (base, *relative.parts) if part != "__init__")
            names.append(dotted)
    hidden = sorted(HEAVY | {"click", "rich", "scipy", "google"})
    code = (
        f"import sys\nclass Hide:\n    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {hidden!r}: raise ImportError('hidden: ' + name)\n"
        f"sys.meta_path.insert(0, Hide())\nimport importlib\nfor n in {names!r}: importlib.import_module(n)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_public_names_are_exactly_these():
    import edgekit

    assert sorted(edgekit.__all__) == ["Artifact", "Capture", "Cascade", "EdgeKitError", "Metrics", "Model", "Pool",
                                       "Stream", "__version__", "convert", "load", "retrain", "watch"]  # fmt: skip
    for name in edgekit.__all__:
        assert getattr(edgekit, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = edgekit.nothing


def test_modules_of_the_server_import_one_way():
    """No circle among them, also not in names for types."""
    wanted = {}
    for file in sources("edgekit/serve"):
        tree = ast.parse(file.read_text())
        names = [name.removeprefix("edgekit.serve.").partition(".")[0] for node in ast.walk(tree)
                 for name in _imported(node) if name.startswith("edgekit.serve.")]  # fmt: skip
        names += [alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
                  and node.module == "edgekit.serve" for alias in node.names]  # fmt: skip
        wanted[file.stem] = set(names) - {""}
    while free := [name for name, needs in wanted.items() if not needs & set(wanted)]:
        for name in free:
            del wanted[name]
    assert wanted == {}
