"""PyTorch sources: what is read, what comes out under which names, and that PyTorch itself answers."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="comes with the torch extra")
pytest.importorskip("onnxscript", reason="comes with the torch extra")
ort = pytest.importorskip("onnxruntime", reason="comes with the onnx extra")

import torch_nets  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import edgekit  # noqa: E402
from edgekit import errors  # noqa: E402
from edgekit.converters import load_torch, lower_onnx_onnx, lower_onnx_tflite  # noqa: E402
from edgekit.converters.stages import Source  # noqa: E402
from edgekit.converters.tflite_graphs import graph as tflite_graph  # noqa: E402

X = {"x": (None, 4)}


def live(module, folder: Path, shapes=X, dtypes=None):
    """A live object on its way through `save_shaped` and `load`."""
    path = load_torch.save_shaped(module, folder, shapes, dtypes or {})
    return load(path, shapes=shapes, dtypes=dtypes, trusted=True)


def load(path, *, shapes=X, dtypes=None, trusted=False, model=None):
    size = Path(path).stat().st_size
    return load_torch.load(
        Source(str(path), "torch", "", size, shapes=dict(shapes), trusted=trusted, dtypes=dtypes or {}, model=model)
    )


def feeds_of(loaded, batch: int, seed: int = 0):
    dice = np.random.default_rng(seed)
    feeds = {}
    for spec in loaded.facts.inputs:
        shape = [(batch if axis == 0 else 7) if size is None else size for axis, size in enumerate(spec.shape)]
        real = dice.normal(size=shape) if spec.dtype.startswith("float") else dice.integers(0, 50, shape)
        feeds[spec.name] = real.astype(spec.dtype)
    return feeds


def check(loaded, folder: Path, batches=(1, 3), bound: float = 1e-5) -> bytes:
    """The file made of it answers as PyTorch does, batch by batch, under the same names; its bytes."""
    graph = lower_onnx_onnx.lower(loaded, folder / "float.onnx")
    session = ort.InferenceSession(graph.path)
    names = [output.name for output in session.get_outputs()]
    assert names == [spec.name for spec in loaded.facts.outputs]
    assert [put.name for put in session.get_inputs()] == [spec.name for spec in loaded.facts.inputs]
    for batch in batches:
        feeds = feeds_of(loaded, batch)
        expected = loaded.run(feeds)
        assert list(expected) == names
        for name, found in zip(names, session.run(None, feeds), strict=True):
            assert found.dtype == expected[name].dtype
            np.testing.assert_allclose(found, expected[name], rtol=bound, atol=bound, err_msg=name)
    return Path(graph.path).read_bytes()


def check_tflite(loaded, folder: Path, *, turned: bool, batches=(1, 3), bound: float = 1e-4) -> None:
    """So does the TFLite file, with a free batch; images are turned once at most, unless `turned` says more."""
    from ai_edge_litert.interpreter import Interpreter

    graph = lower_onnx_tflite.lower(loaded, folder / "float.tflite")
    assert graph.notes == ()
    runner = Interpreter(model_path=graph.path, num_threads=1).get_signature_runner()
    for batch in batches:
        feeds = feeds_of(loaded, batch)
        expected = loaded.run(feeds)
        answers = runner(**feeds)
        for name, want in expected.items():
            assert (answers[name].shape, answers[name].dtype) == (want.shape, want.dtype)
            assert np.abs(answers[name] - want).max() <= bound * np.ptp(want)
    if loaded.facts.inputs[0].layout in ("NCHW", "NCW") and not turned:
        kinds = [tflite_graph.op_name(model, op) for model in [tflite_graph.read(Path(graph.path).read_bytes())]
                 for op in tflite_graph.operators(model)]  # fmt: skip
        assert kinds.count("TRANSPOSE") <= len(graph.inputs) + len(graph.outputs)


def net(forward, **buffers):
    """A network of one linear layer 4 -> 4 with a forward of its own."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)
            for name, value in buffers.items():
                self.register_buffer(name, value)

    Net.forward = forward
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net().eval()


def linear(self, x):
    return self.layer(x)


# -- Networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", torch_nets.NETS)
def test_usual_networks_from_their_weights(name, tmp_path):
    factory, inputs = torch_nets.NETS[name]
    path = tmp_path / "weights.pth"
    torch.save(factory().state_dict(), path)
    shapes = {key: shape for key, (shape, _) in inputs.items()}
    dtypes = {key: dtype for key, (_, dtype) in inputs.items()}
    loaded = load(path, shapes=shapes, dtypes=dtypes, model=f"torch_nets:{name}")
    assert (loaded.facts.framework, loaded.precision, loaded.facts.notes) == ("torch", "fp32", ())
    assert {spec.name: (spec.shape, spec.dtype) for spec in loaded.facts.inputs} == inputs
    assert all(spec.shape[0] is None for spec in loaded.facts.outputs)
    assert loaded.facts.inputs[0].layout == ("NCHW" if "image" in inputs else "NCW" if "signal" in inputs else None)
    assert set(loaded.facts.tools) == {"torch", "onnxscript", "onnx", "onnxruntime"}
    check(loaded, tmp_path)
    check_tflite(loaded, tmp_path, turned=name == "vit")
    feeds = feeds_of(loaded, 3)
    with torch.no_grad():
        answer = factory()(*(torch.tensor(value) for value in feeds.values()))
    answer = answer if isinstance(answer, dict) else {"output": answer}
    for key, found in loaded.run(feeds).items():
        np.testing.assert_array_equal(found, answer[key].numpy())


def test_the_same_network_gives_the_same_bytes_without_paths(tmp_path):
    made: list[bytes] = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        module = net(lambda self, x: F.gelu(self.layer(x)).mean(1))
        made.append(check(live(module, folder, {"x": (None, None, 4)}), folder, batches=(2,)))
    assert made[0] == made[1]
    assert b"test_load_torch" not in made[0]
    assert b"x_1" in made[0], "the name of the free size"
    assert b"site-packages" not in made[0]


# -- Names and shapes -------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Answer:
    logits: object
    hidden: object = None


class Pair(NamedTuple):
    first: object
    second: object


@pytest.mark.parametrize(
    ("forward", "names"),
    [
        (linear, ["output"]),
        (lambda self, x: (self.layer(x), x * 2), ["output_0", "output_1"]),
        (lambda self, x: Pair(self.layer(x), x * 2), ["first", "second"]),
        (lambda self, x: Answer(self.layer(x)), ["logits"]),
        (lambda self, x: {"y": self.layer(x), "more": [x + 1, (x + 2, None)], "n": 3}, ["y", "more_0", "more_1_0"]),
        (lambda self, x: {"x": self.layer(x), "weight": self.layer.weight}, ["x_1", "weight"]),
        (lambda self, x: [x, *[self.layer(x)] * 2], ["output_0", "output_1", "output_2"]),
        (lambda self, x: (self.layer(x).argmax(1), x > 0), ["output_0", "output_1"]),
        (lambda self, x: self.layer(x).bfloat16(), ["output"]),
    ],
)
def test_outputs_are_called_as_forward_calls_them(forward, names, tmp_path):
    loaded = live(net(forward), tmp_path)
    assert [spec.name for spec in loaded.facts.outputs] == names
    check(loaded, tmp_path)


class Optional(nn.Module):
    def forward(self, x, scale=2.0, *, mask=None):
        return x * scale + (0 if mask is None else mask)


@pytest.mark.parametrize(
    ("module", "shapes"),
    [
        (Optional(), X),
        (Optional(), {"mask": (None, 4), "x": (None, 4)}),
        (net(lambda self, x: self.layer(x.mul_(2).sub_(1))), X),
        (net(lambda self, *xs: self.layer(xs[0]) - xs[1]), {"one": (None, 4), "two": (None, 4)}),
        (net(lambda self, x, unused: self.layer(x)), {"x": (None, 4), "unused": (None, 2)}),
        (net(lambda self, x, table: self.layer(x) @ table.T), {"x": (None, 4), "table": (5, 4)}),
        (net(lambda self, x: self.layer(x).mean(1)), {"x": (None, None, 4)}),
    ],
)
def test_inputs_are_the_parameters_of_forward(module, shapes, tmp_path):
    loaded = live(module, tmp_path, shapes)
    assert {spec.name: spec.shape for spec in loaded.facts.inputs} == shapes
    if "mask" in shapes:
        assert [spec.name for spec in loaded.facts.inputs] == ["x", "mask"], "in the order of forward"
    check(loaded, tmp_path)


class Keyed(nn.Module):
    """Takes a dict, as networks of tables and of tokenizers do."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(6, 3)

    def forward(self, batch, scale=None):
        made = self.left(batch["left"]) + torch.relu(self.right(batch["right"]))
        return {"score": made if scale is None else made * scale}


def test_what_a_dict_holds_is_named_behind_a_dot(tmp_path):
    torch.manual_seed(0)
    shapes = {"batch.right": (None, 6), "scale": (None, 3), "batch.left": (None, 4)}
    loaded = live(Keyed(), tmp_path, shapes)
    assert [spec.name for spec in loaded.facts.inputs] == ["batch.right", "batch.left", "scale"]
    assert [spec.name for spec in loaded.facts.outputs] == ["score"]
    check(loaded, tmp_path)
    with pytest.raises(errors.UsageError) as refusal:
        live(Keyed(), tmp_path, {"batch": (None, 4)})
    assert refusal.value.code == "shape-conflict"
    assert "--input batch.KEY=SIZES" in refusal.value.next_step
    with pytest.raises(errors.UsageError) as refusal:
        live(Keyed(), tmp_path, {"other.left": (None, 4)})
    assert refusal.value.code == "input-unknown"


def test_fixed_sizes_stay_fixed(tmp_path):
    loaded = live(net(linear), tmp_path, {"x": (3, 4)})
    assert loaded.facts.inputs[0].shape == (3, 4)
    assert loaded.run({"x": np.zeros((7, 4), np.float32)})["output"].shape == (7, 4)


def loop(self, x):
    return torch.stack([self.layer(x[row]) for row in range(x.shape[0])])


def few(self, x):
    assert x.shape[0] <= 8
    return self.layer(x)


@pytest.mark.parametrize("forward", [loop, few])
def test_a_batch_that_is_a_number_in_the_code_is_fixed_to_one_and_said(forward, tmp_path):
    loaded = live(net(forward), tmp_path)
    assert loaded.facts.inputs[0].shape == (1, 4)
    assert any("the batch is fixed to 1" in note for note in loaded.facts.notes)
    check(loaded, tmp_path, batches=(1,))
    assert loaded.run({"x": np.ones((3, 4), np.float32)})["output"].shape == (3, 4)


# -- Modes and types --------------------------------------------------------------------------------------------


def test_a_network_in_training_mode_is_converted_for_inference_and_left_as_it_was(tmp_path):
    module = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.BatchNorm1d(8).eval()).train()
    module[2].eval()
    loaded = live(module, tmp_path, {"input": (None, 4)})
    assert any("training mode" in note for note in loaded.facts.notes)
    assert [part.training for part in module.modules()] == [True, True, True, False]
    check(loaded, tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_widths_are_computed_in_float32_and_said(dtype, tmp_path):
    module = net(linear).to(dtype)
    loaded = live(module, tmp_path)
    assert loaded.precision == "fp32"
    assert any("float32" in note and str(dtype).removeprefix("torch.") in note for note in loaded.facts.notes)
    assert module.layer.weight.dtype == dtype, "the caller's network is left alone"
    check(loaded, tmp_path)


def test_integers_are_taken_where_they_are_said(tmp_path):
    module = net(lambda self, x: self.layer(x.float() / 255))
    loaded = live(module, tmp_path, X, {"x": "uint8"})
    assert loaded.facts.inputs[0].dtype == "uint8"
    check(loaded, tmp_path)


def test_nothing_is_printed(tmp_path, capfd):
    module = net(lambda self, x: self.layer(F.gelu(x)) * x.max().item())
    loaded = live(module, tmp_path)
    check(loaded, tmp_path)
    assert capfd.readouterr() == ("", "")


# -- Files ------------------------------------------------------------------------------------------------------


def plain(path, state):
    torch.save(state, path)


def legacy(path, state):
    torch.save(state, path, _use_new_zipfile_serialization=False)


def safetensors(path, state):
    pytest.importorskip("safetensors.torch").save_file(state, path)


def test_a_network_named_by_path_of_attributes_or_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "mine_a.py").write_text(
        "import torch\nclass Nets:\n    small = torch.nn.Linear(4, 3)\n    make = staticmethod(lambda: Nets.small)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    torch.save({"weight": torch.ones(3, 4), "bias": torch.zeros(3)}, "w.pt")
    for spec in ("mine_a:Nets.small", "mine_a:Nets.make"):
        loaded = load(tmp_path / "w.pt", shapes={"input": (None, 4)}, model=spec)
        assert loaded.run({"input": np.ones((2, 4), np.float32)})["output"].tolist() == [[4.0] * 3] * 2


WRAPPINGS = {
    "as it is": lambda state: state,
    "data parallel": lambda state: {f"module.{key}": value for key, value in state.items()},
    "compiled": lambda state: {f"_orig_mod.module.{key}": value for key, value in state.items()},
    "checkpoint": lambda state: {"epoch": 3, "best": torch.tensor(0.5), "state_dict": state},
    "checkpoint of a wrapper": lambda state: {"state_dict": {f"module.{key}": v for key, v in state.items()}},
    "under model": lambda state: {"model": state, "optimizer": {"state": {}}},
    "lightning": lambda state: {"state_dict": {f"model.{key}": v for key, v in state.items()}, "global_step": 1},
    "old, without counters": lambda state: {k: v for k, v in state.items() if "num_batches" not in k},
    "half": lambda state: {key: v.half() if v.is_floating_point() else v for key, v in state.items()},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("write", [plain, legacy, safetensors])
def test_weights_however_they_are_kept(wrapping, write, tmp_path):
    from edgekit.converters.from_torch import weights as torch_weights

    source, target = torch_nets.resnet(), torch_nets.CifarResNet(1, (8, 16))
    wrapped = WRAPPINGS[wrapping](source.state_dict())
    if write is safetensors and not all(isinstance(value, torch.Tensor) for value in wrapped.values()):
        wrapped = WRAPPINGS["data parallel"](source.state_dict())
    path = tmp_path / "w.bin"
    write(path, wrapped)
    assert load_torch.recognizes(path)
    torch_weights.fit(torch_weights.read(path), target, path.name)
    image = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        bound = 1e-2 if wrapping == "half" else 0.0
        assert torch.allclose(source(image), target.eval()(image), bound, bound)


def test_weights_that_are_used_twice_and_stored_once(tmp_path):
    from edgekit.converters.from_torch import weights as torch_weights

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
            self.two.weight = self.one.weight

    state = {key: torch.full_like(value, 0.5) for key, value in Tied().state_dict().items() if key != "two.weight"}
    safetensors(tmp_path / "w.safetensors", state)
    target = Tied()
    torch_weights.fit(torch_weights.read(tmp_path / "w.safetensors"), target, "w")
    assert float(target.two.weight.detach().min()) == 0.5


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """A network, and files of it that hold code."""
    folder = tmp_path_factory.mktemp("programs")
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 36, 5)).eval()
    sample = torch.rand(2, 2, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit altogether
        torch.jit.save(torch.jit.script(module), folder / "scripted.pt")
        torch.jit.save(torch.jit.trace(module, sample), folder / "traced.pt")
    free = ({0: torch.export.Dim("n")},)
    torch.export.save(torch.export.export(module, (sample,), dynamic_shapes=free), folder / "exported.pt2")
    torch.save(module, folder / "pickled.pt")
    return folder, module


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("scripted.pt", {"input": (None, 2, 8, 8)}),
        ("traced.pt", {"input": (None, 2, 8, 8)}),
        ("exported.pt2", {}),
        ("exported.pt2", {"input": (1, 2, 8, 8)}),
    ],
)
def test_programs_are_opened_when_they_are_trusted(name, shapes, programs, tmp_path):
    folder, module = programs
    with pytest.raises(errors.UnsafeSourceError, match="a program that runs") as caught:
        load(folder / name, shapes=shapes)
    assert caught.value.code == "source-unsafe-code"
    loaded = load(folder / name, shapes=shapes, trusted=True)
    assert loaded.facts.inputs[0].shape[1:] == (2, 8, 8)
    check(loaded, tmp_path, batches=(1,) if loaded.facts.inputs[0].shape[0] else (1, 3))
    image = np.random.default_rng(0).normal(size=(3, 2, 8, 8)).astype(np.float32)
    with torch.no_grad():
        np.testing.assert_allclose(loaded.run({"input": image})["output"], module(torch.tensor(image)), atol=1e-6)


def test_live_programs_and_scripts(programs, tmp_path):
    folder, _ = programs
    program = torch.export.load(folder / "exported.pt2")
    assert load_torch.accepts(program)
    check(live(program, tmp_path, {}), tmp_path, batches=(1, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        script = torch.jit.load(folder / "scripted.pt")
    assert load_torch.accepts(script)
    loaded = live(script, tmp_path, {"input": (1, 2, 8, 8)})
    check(loaded, tmp_path, batches=(1,))


# -- Refusals ---------------------------------------------------------------------------------------------------


def refused(call, code: str, *words: str):
    with pytest.raises(errors.EdgeKitError) as caught:
        call()
    assert caught.value.code == code, caught.value
    said = f"{caught.value} {caught.value.next_step}"
    assert caught.value.next_step
    for word in words:
        assert word in said, said


def test_a_pickle_is_never_opened(programs, tmp_path):
    folder, _ = programs
    refused(lambda: load(folder / "pickled.pt", model="torch_nets:resnet"), "source-unsafe-code", "state_dict()")

    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"state_dict": {"w": torch.zeros(1)}, "extra": Trap()}, tmp_path / "trap.pt")
    for trusted in (False, True):
        refused(
            lambda: load(tmp_path / "trap.pt", model="torch_nets:resnet", trusted=trusted),  # noqa: B023
            "source-unsafe-code",
            "holds more than weights",
        )
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("share", [0.2, 0.7, 0.99])
@pytest.mark.parametrize("write", [plain, legacy, safetensors])
def test_damaged_weights(share, write, tmp_path):
    path = tmp_path / "w.pt"
    write(path, torch_nets.resnet().state_dict())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(errors.SourceError) as caught:
        load(path, model="torch_nets:resnet")
    assert caught.value.code in ("source-unreadable", "source-unsafe-code", "torch-no-weights")


def test_weights_of_another_network_are_refused_by_name(tmp_path):
    path = tmp_path / "w.pt"
    state = torch_nets.resnet().state_dict()

    def said(changed):
        torch.save(changed, path)
        return lambda: load(path, model="torch_nets:resnet")

    lacking = {key: value for key, value in state.items() if key != "linear.bias"}
    refused(said(lacking), "torch-weights-differ", "lacks linear.bias")
    refused(said({**state, "fc.weight": torch.zeros(1)}), "torch-weights-differ", "no fc.weight")
    reshaped = {**state, "linear.weight": torch.zeros(100, 16)}
    refused(said(reshaped), "torch-weights-differ", "linear.weight is [100, 16], not [10, 16]")
    refused(said({"epoch": 3}), "torch-no-weights", "epoch")
    refused(said([1, 2]), "torch-no-weights")
    torch.save(state, path)
    refused(lambda: load(path), "torch-code-missing", "--model")


def test_shapes_are_asked_for_by_name(tmp_path):
    path = tmp_path / "w.pt"
    torch.save(torch_nets.resnet().state_dict(), path)
    ask = lambda shapes: lambda: load(path, shapes=shapes, model="torch_nets:resnet")  # noqa: E731
    refused(ask({}), "torch-input-shapes", "--input image=N,3,HEIGHT,WIDTH")
    refused(ask({"picture": (None, 3, 32, 32)}), "input-unknown", "it takes image")
    refused(ask({"image": (None, 4, 32, 32)}), "shape-conflict", "to have 3 channels, but got 4", "torch_nets.py, line")
    torch.save(torch_nets.text_encoder().state_dict(), path)
    refused(lambda: load(path, shapes={}, model="torch_nets:text_encoder"), "torch-input-shapes", "ids=N,LENGTH:int64")
    refused(lambda: load(path, shapes={"ids": (None, 16)}, model="torch_nets:text_encoder"), "shape-conflict", ":int64")


class Chosen(torch.nn.Module):
    """A picture, and a number that says which kind it is of."""

    def __init__(self):
        super().__init__()
        self.conv, self.kinds = torch.nn.Conv2d(3, 4, 3), torch.nn.Embedding(5, 4)

    def forward(self, image, kind):
        return self.conv(image).mean((2, 3)) + self.kinds(kind)


def test_inputs_of_several_kinds_are_not_all_taken_for_what_the_first_layer_takes(tmp_path):
    call = lambda **shapes: lambda: edgekit.convert(Chosen(), to="onnx", shapes=shapes)  # noqa: E731
    hint = "--input image=N,3,HEIGHT,WIDTH --input kind=N,SIZE,... with your sizes"
    refused(call(), "torch-input-shapes", hint, "integers say so: kind=N,SIZE:int64")
    image = (None, 3, 8, 8)
    refused(call(image=image, kind=(None,)), "shape-conflict", "--input NAME=SIZES:int64 for those of image, kind that")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("torch_nets", ["MODULE:FACTORY"]),
        ("./nets/torch_nets.py:resnet", ["--model nets.torch_nets:resnet,"]),
        ("no_such_module:net", ["no_such_module"]),
        ("torch_nets:nobody", ["resnet20"]),
        ("torch_nets:CifarBlock", ["inputs"]),
        ("torch_nets:NETS", ["dict"]),
        ("math:gcd", ["int"]),
    ],
)
def test_what_makes_no_network(spec, words, tmp_path):
    torch.save(torch_nets.resnet().state_dict(), tmp_path / "w.pt")
    refused(lambda: load(tmp_path / "w.pt", model=spec), "torch-factory", *words)


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x):
        self.count += 1
        return x * 1


@pytest.mark.parametrize(
    ("module", "code", "words"),
    [
        (net(lambda self, x: F.dropout(self.layer(x))), "source-training-mode", ["training=self.training"]),
        (net(lambda self, x: self.layer(x) if x.sum() > 0 else x), "source-untraceable", ["test_load_torch.py, line"]),
        (net(lambda self, x: torch.linalg.svd(x[:, :, None] * x[:, None])[1]), "op-unsupported-conversion", ["svd"]),
        (net(lambda self, x: torch.fft.rfft(x)), "source-dtype", ["complex64"]),
        (net(lambda self, x: None), "torch-outputs", []),
        (net(lambda self, x: x.nothing), "shape-conflict", ["no attribute 'nothing'"]),
        (Counter(), "source-stateful", ["count"]),
        (nn.Linear(4, 3, device="meta"), "torch-no-weights", ["meta"]),
    ],
)
def test_networks_that_cannot_be_converted(module, code, words, tmp_path):
    name = next(iter(load_torch.networks.parameters(module)))
    refused(lambda: live(module.eval(), tmp_path, {name: (None, 4)}), code, *words)


def test_a_batch_that_the_network_itself_refuses(tmp_path):
    module = net(lambda self, x: self.layer(x.reshape(x.shape[0] // 2, 2, 4)).reshape(-1, 4))
    refused(lambda: live(module, tmp_path), "shape-conflict", "[1,4]")
    check(live(module, tmp_path, {"x": (4, 4)}), tmp_path, batches=(4,))


def test_another_free_size_that_the_code_fixes(tmp_path):
    module = net(lambda self, x: torch.stack([self.layer(x[:, i]) for i in range(x.shape[1])]).sum(0))
    refused(lambda: live(module, tmp_path, {"x": (None, None, 4)}), "shape-conflict", "axis 1 of x")


def test_programs_know_their_shapes_and_types(programs):
    folder, _ = programs
    ask = lambda **about: lambda: load(folder / "exported.pt2", trusted=True, **about)  # noqa: E731
    refused(ask(shapes={"x": (1,)}), "input-unknown", "input")
    refused(ask(shapes={"input": (None, 2, 9, 8)}), "shape-conflict")
    refused(ask(shapes={}, dtypes={"input": "int64"}), "dtype-conflict")
    refused(ask(shapes={}, model="torch_nets:resnet"), "torch-code-unused")


class Places(nn.Module):
    """A table of 64 places, cut to the steps that are there."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(64, 4))
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x + self.places[: x.shape[1]])


def test_a_free_size_that_ends_up_fixed_is_told(tmp_path):
    loaded = live(Places().eval(), tmp_path, {"x": (None, None, 4)})
    told = [note for note in loaded.facts.notes if note.startswith("axis 1 of x is fixed to")]
    assert bool(told) == (loaded.facts.inputs[0].shape[1] is not None)
    assert load_torch._fixed_after_all(loaded.facts.inputs, loaded.facts.inputs) == []
    free = dataclasses.replace(loaded.facts.inputs[0], shape=(None, None, 4))
    fixed = dataclasses.replace(free, shape=(None, 64, 4))
    assert "axis 1 of x is fixed to 64" in load_torch._fixed_after_all((free,), (fixed,))[0]
