"""A PyTorch network as a function of named tensors to named tensors.

However a network takes and gives its tensors (keywords, tuples, dicts, dataclasses), it is wrapped once into one that
takes them in a fixed order and gives a flat tuple. That wrapper answers for verification and is what gets exported, so
that both carry the same names: the parameters of `forward`, and what `forward` calls its answers.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import itertools
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.converters.from_tensorflow.model import unique
from edgekit.converters.from_torch.answers import check, leaves, names_of, numeric
from edgekit.errors import SourceError, UsageError, first_line
from edgekit.tensors import TensorSpec

Shapes = Mapping[str, tuple[int | None, ...]]

DTYPES = ("float32", "float64", "int32", "int64", "int16", "int8", "uint8", "bool")
"""What an input can be said to be; float16 is what networks are brought out of."""

_FREE_SIZES = (64, 32, 16, 8, 128, 224)
"""Tried in turn for axes other than the batch that the user leaves free."""
_FREE_BATCH = 2
_CHANGES = 1e-4
"""Share of the largest answer by which two answers to one input may differ: sums in another order, not dropout."""


@dataclass(frozen=True)
class Network:
    """A network ready to answer and to be exported.

    Attributes:
        flat: nn.Module: tensors in the order of `inputs` -> tuple of tensors in the order of `outputs`.
        inputs: Public names, shapes (None: free), dtypes.
        outputs: Public names.
        sample: A tensor an input, of sizes that the network computes with.
        notes: For the user.
    """

    flat: Any
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    sample: tuple[Any, ...]
    notes: tuple[str, ...] = ()

    def with_batch_of_one(self) -> Network:
        """The same network for one sample at a time.

        Raises:
            UsageError: `shape-conflict`: it does not compute with that.
        """
        inputs = tuple(
            replace(spec, shape=(1, *spec.shape[1:])) if spec.shape and spec.shape[0] is None else spec
            for spec in self.inputs
        )
        sample = self.sample_of(1)
        _answers(self.flat, inputs, sample)
        return replace(self, inputs=inputs, sample=sample)

    def sample_of(self, batch: int) -> tuple[Any, ...]:
        """The sample with another number of rows, where their number is free."""
        rows = [row % _FREE_BATCH for row in range(batch)]
        return tuple(
            tensor[rows] if spec.shape and spec.shape[0] is None else tensor
            for spec, tensor in zip(self.inputs, self.sample, strict=True)
        )


def prepared(module: Any) -> tuple[Any, tuple[str, ...]]:
    """The network on the CPU and in float32, and what to tell the user.

    A network that needs to be moved or widened is copied first.

    Raises:
        SourceError: `torch-no-weights`: its parameters are only announced (device "meta").
    """
    import torch

    for kind, inner in (
        ("OptimizedModule", "_orig_mod"),
        ("DataParallel", "module"),
        ("DistributedDataParallel", "module"),
    ):
        if type(module).__name__ == kind:
            module = getattr(module, inner)
    tensors = [*module.parameters(), *module.buffers()]
    if any(tensor.is_meta for tensor in tensors):
        raise SourceError("torch-no-weights", "the network has parameters without values (device meta)")
    notes = widened(tensors)
    if notes or any(tensor.device.type != "cpu" for tensor in tensors):
        module = copy.deepcopy(module).to("cpu")
    if notes:
        module = module.float() if not isinstance(module, torch.jit.ScriptModule) else module.to(torch.float32)
    return module, notes


def widened(tensors: Iterable[Any]) -> tuple[str, ...]:
    """What to tell the user of weights that are not float32."""
    odd = sorted({str(t.dtype).removeprefix("torch.") for t in tensors if t.is_floating_point()} - {"float32"})
    return (f"weights stored in {' and '.join(odd)} are computed with in float32",) if odd else ()


@contextlib.contextmanager
def evaluating(module: Any) -> Iterator[None]:
    """The network in evaluation mode, and afterwards each of its parts as it was."""
    before = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in before:
            part.training = training


def network(module: Any, shapes: Shapes, dtypes: Mapping[str, str], notes: tuple[str, ...] = ()) -> Network:
    """Bind a module to the shapes of its inputs; it must be in evaluation mode.

    Raises:
        UsageError: `torch-input-shapes`: inputs without shapes, with the options to give; `input-unknown`;
            `shape-conflict`: the module does not compute with these shapes.
        SourceError: `torch-outputs`: it answers no tensors; `source-dtype`; `source-training-mode`: its answers differ
            from call to call.
    """
    order = _bound(module, shapes)
    inputs = tuple(TensorSpec(name, tuple(shapes[name]), dtypes.get(name, "float32")) for name in order)
    flat = _flat(module, order)
    return _finished(flat, inputs, notes)


def program_network(program: Any, shapes: Shapes, dtypes: Mapping[str, str]) -> Network:
    """The same of an ExportedProgram, which knows its shapes; free ones may be fixed.

    Raises:
        UsageError: `input-unknown`, `shape-conflict`.
        SourceError: `torch-inputs`: it takes something else than tensors; and see `network`.
    """
    from torch.utils._pytree import tree_unflatten

    inputs = _declared(program)
    known = {spec.name: spec for spec in inputs}
    for name, shape in shapes.items():
        if name not in known:
            raise UsageError("input-unknown", f"no input is called {name!r}; known: {', '.join(known)}")
        declared = known[name].shape
        if len(shape) != len(declared) or any(d not in (None, s) for d, s in zip(declared, shape, strict=True)):
            raise UsageError(
                "shape-conflict", f"the shape {list(shape)} does not fit {known[name].describe()} of the program"
            )
    for name, dtype in dtypes.items():
        if name in known and known[name].dtype != dtype:
            raise UsageError("dtype-conflict", f"the input {known[name].describe()} is not {dtype}")
    inputs = tuple(replace(spec, shape=tuple(shapes.get(spec.name, spec.shape))) for spec in inputs)
    inner, structure = program.module(), program.call_spec.in_spec

    def call(tensors: tuple[Any, ...]) -> Any:
        args, kwargs = tree_unflatten(list(tensors), structure)
        return inner(*args, **kwargs)

    flat = _wrapped(inner, call)
    return _finished(flat, inputs, ())


def _finished(flat: Any, inputs: tuple[TensorSpec, ...], notes: tuple[str, ...]) -> Network:
    sample, answers = _tried(flat, inputs)
    # In an ONNX graph no output may be called as an input is.
    names = unique([*(spec.name for spec in inputs), *names_of(answers)])[len(inputs) :]
    check(names, answers)
    found = Network(flat, inputs, tuple(names), sample, notes)
    _refuse_random(found)
    return found


def parameters(module: Any) -> dict[str, bool]:
    """Names of what `forward` takes, and whether each must be given."""
    import torch

    if isinstance(module, torch.jit.ScriptModule):
        listed = module.forward.schema.arguments[1:]
        return {argument.name: not argument.has_default_value() for argument in listed}
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    taken = inspect.signature(module.forward).parameters.values()
    return {p.name: p.default is p.empty for p in taken if p.kind not in kinds}


def _bound(module: Any, shapes: Shapes) -> list[str]:
    """The names of the inputs in the order of `forward`."""
    taken = parameters(module)
    named = {name if name in taken else name.partition(".")[0] for name in shapes}
    unknown = [name for name in shapes if name not in taken and name.partition(".")[0] not in taken]
    if unknown and (taken or shapes) and not _takes_any(module):
        raise UsageError("input-unknown", f"forward takes no {unknown[0]!r}; it takes {', '.join(taken) or 'nothing'}")
    missing = [name for name, needed in taken.items() if needed and name not in named]
    if missing or not shapes:
        wanted = missing or list(taken)[:1] or ["input"]
        first, several = next(iter(taken), wanted[0]), len(taken) > 1
        example = " ".join(f"--input {name}={_hint(module) if name == first else 'N,SIZE,...'}" for name in wanted)
        integers = f"; integers say so: {wanted[-1]}=N,SIZE:int64" if several else ""
        raise UsageError(
            "torch-input-shapes",
            f"the shapes of the inputs are unknown: forward takes {', '.join(taken) or '*args'}, "
            f"and nothing was said of {', '.join(wanted)}",
            next_step=f"Give {example} with your sizes; N leaves the batch free{integers}. In Python: "
            f"shapes={{{', '.join(f'{name!r}: (None, ...)' for name in wanted)}}}.",
            inputs=list(taken),
        )
    parts = {name: [own for own in shapes if own == name or own.partition(".")[0] == name] for name in taken}
    return [*itertools.chain.from_iterable(parts.values()), *unknown]


def _takes_any(module: Any) -> bool:
    import torch

    if isinstance(module, torch.jit.ScriptModule):
        return False
    return any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(module.forward).parameters.values())


def _flat(module: Any, order: list[str]) -> Any:
    taken = parameters(module)
    # What *args take goes by position; all else by name, past parameters that keep their defaults.
    by_position = 0 if all(name in taken or name.partition(".")[0] in taken for name in order) else len(order)

    def call(tensors: tuple[Any, ...]) -> Any:
        named = zip(order[by_position:], tensors[by_position:], strict=True)
        return module(*tensors[:by_position], **_gathered(named, taken))

    return _wrapped(module, call)


def _gathered(named: Iterable[tuple[str, Any]], taken: Mapping[str, bool]) -> dict[str, Any]:
    """Arguments of `forward`: tensors called "batch.left" and "batch.right" are a dict `batch`."""
    made: dict[str, Any] = {}
    for name, tensor in named:
        parameter, _, key = name.partition(".")
        if name in taken:
            made[name] = tensor
        else:
            made.setdefault(parameter, {})[key] = tensor
    return made


def _wrapped(module: Any, call: Any) -> Any:
    import torch

    class Flat(torch.nn.Module):  # type: ignore[misc, unused-ignore]
        """Tensors in order to a flat tuple of tensors."""

        def __init__(self) -> None:
            super().__init__()
            self.training = False  # not `eval`, which exported programs refuse for their parts
            if isinstance(module, torch.jit.ScriptModule):
                self.held = (module,)  # as a sub-module it would be refused; like this its operators are recorded
            else:
                self.inner = module

        def structured(self, *tensors: Any) -> Any:
            return call(tuple(tensor.clone() for tensor in tensors))  # forward may write into what it is given

        def forward(self, *tensors: Any) -> tuple[Any, ...]:
            return tuple(numeric(tensor) for _, tensor in leaves(self.structured(*tensors)))

    return Flat()


def _tried(flat: Any, inputs: tuple[TensorSpec, ...]) -> tuple[tuple[Any, ...], Any]:
    """A sample that the network computes with, and its answer as the network structures it."""
    refused = []
    for size in _FREE_SIZES if any(None in spec.shape[1:] for spec in inputs) else _FREE_SIZES[:1]:
        sample = tuple(_sample(spec, size, seed) for seed, spec in enumerate(inputs))
        try:
            return sample, _answers(flat, inputs, sample)
        except UsageError as error:
            refused.append(error)
    raise refused[0]


def _sample(spec: TensorSpec, size: int, seed: int) -> Any:
    import torch

    sizes = [(_FREE_BATCH if axis == 0 else size) if s is None else s for axis, s in enumerate(spec.shape)]
    dtype = getattr(torch, spec.dtype)
    dice = torch.Generator().manual_seed(seed)
    if dtype.is_floating_point:
        return (torch.rand(sizes, generator=dice) * 2 - 1).to(dtype)
    return torch.zeros(sizes, dtype=dtype)  # the one number that indexes any table


def _answers(flat: Any, inputs: tuple[TensorSpec, ...], sample: tuple[Any, ...]) -> Any:
    import torch

    try:
        with torch.no_grad():
            return flat.structured(*sample)
    except Exception as error:  # the network is the user's own code
        shapes = ", ".join(spec.describe() for spec in inputs)
        said = reason(error)
        integers = any(word in said for word in ("Long", "Int", "indices", "integer"))
        step = _as_integers(inputs) if integers else None
        if isinstance(error, (IndexError, TypeError, KeyError)) and inputs and "." not in inputs[0].name:
            keyed = f"If forward takes a dict, name what it holds: --input {inputs[0].name}.KEY=SIZES for each key."
            step = keyed if step is None else f"{step} {keyed}"
        raise UsageError(
            "shape-conflict",
            f"the network does not compute with {shapes}: {said}{where(error)}",
            cause="The network itself, asked in PyTorch with such a sample, raised the error in the message.",
            next_step=step or "Give --input the sizes and the element type that the network was trained with.",
        ) from error


def _refuse_random(net: Network) -> None:
    import torch

    with torch.no_grad():
        first, second = net.flat(*net.sample), net.flat(*net.sample)
    for name, one, other in zip(net.outputs, first, second, strict=True):
        one, other = one.detach(), other.detach()  # noqa: PLW2901
        if one.numel() and one.is_floating_point():
            same = one.isfinite() & other.isfinite()
            change = (one - other)[same].abs()
            if change.numel() and change.max() > _CHANGES * max(1e-30, float(one[same].abs().max())):
                raise SourceError(
                    "source-training-mode",
                    f"the network answers one sample differently each time ({name!r} changes by up to "
                    f"{float(change.max()):.3g})",
                    cause="Its forward draws random numbers even in evaluation mode, or remembers what it was asked.",
                    next_step="Give dropout its mode: F.dropout(x, training=self.training), or use nn.Dropout.",
                )


def _declared(program: Any) -> tuple[TensorSpec, ...]:
    """Names, shapes and dtypes of a program's inputs."""
    import torch

    wanted = set(program.graph_signature.user_inputs)
    found = []
    for node in program.graph.nodes:
        if node.op != "placeholder" or node.name not in wanted:
            continue
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            raise SourceError("torch-inputs", f"the program takes {node.name} = {value!r}, which is no tensor")
        dtype = str(value.dtype).removeprefix("torch.")
        if dtype not in (*DTYPES, "float16"):
            raise SourceError("source-dtype", f"the input {node.name!r} is {dtype}, which no engine takes")
        found.append(TensorSpec(node.name, tuple(fixed(size) for size in value.shape), dtype))
    if len(found) != len(wanted) or len(found) != program.call_spec.in_spec.num_leaves:
        raise SourceError("torch-inputs", "the program takes something else than tensors")
    return tuple(found)


def fixed(size: Any) -> int | None:
    """A size as torch.export knows it: a number, or None where it is free."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression) if expression.is_number else None


def _as_integers(inputs: tuple[TensorSpec, ...]) -> str | None:
    """How to say that what was given as real numbers is integers."""
    names = [spec.name for spec in inputs if spec.dtype.startswith("float")]
    if len(names) < 2:
        return f"For integers say so: --input {names[0]}=SIZES:int64." if names else None
    return f"Say so of integers: --input NAME=SIZES:int64 for those of {', '.join(names)} that are."


def _hint(module: Any) -> str:
    """What the first layer with weights says of the input."""
    for layer in module.modules():
        kind = type(layer).__name__
        if kind.startswith("Conv") and hasattr(layer, "in_channels"):
            axes = {"1": "LENGTH", "2": "HEIGHT,WIDTH", "3": "DEPTH,HEIGHT,WIDTH"}.get(kind[4:5], "...")
            return f"N,{layer.in_channels},{axes}"
        if kind == "Embedding":
            return "N,LENGTH:int64"
        if kind == "Linear":
            return f"N,{layer.in_features}"
        if kind in ("LSTM", "GRU", "RNN"):
            order = "N,LENGTH" if layer.batch_first else "LENGTH,N"
            return f"{order},{layer.input_size}"
        if kind.endswith("Norm") or kind == "MultiheadAttention":
            break
    return "N,SIZE,..."


def where(error: BaseException) -> str:
    """Line of the user's own code that an error came through last: " (nets.py, line 12)"."""
    import torch

    ours = (str(Path(__file__).parent), str(Path(torch.__file__).parent))
    lines = [
        f" ({Path(frame.filename).name}, line {frame.lineno})"
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((*ours, "<"))
    ]
    return lines[-1] if lines else ""


def reason(error: BaseException) -> str:
    """The line that says what is wrong, without colors and stacks; of the first error in a chain of causes."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
