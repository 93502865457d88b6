"""A PyTorch network to an ONNX graph: torch.export records it, torch.onnx writes it down.

The batch, and other sizes that the user leaves free, are recorded as symbols. Where the network computes with the size
of its batch as a number, the recording says so, and the network is recorded for one sample at a time instead.

The recording is made for any size, 0 and 1 included (`backed_size_oblivious`), as the exporter itself asks for.
"""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from edgekit.converters.from_torch import spelling
from edgekit.converters.from_torch.network import Network, fixed, reason, where
from edgekit.errors import ConversionError, SourceError, UsageError

BATCH = "batch"
_BATCHES = (1, 2, 3)
"""A recording with a free batch is asked with each."""
_SAMPLES = 2
_REFUSALS = (AssertionError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
_SYMBOL = re.compile(r"[^\W\d]\w*")
_UNSUPPORTED = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.:]+)'")
_FIXED_NOTE = "the batch is fixed to 1: the network computes with the size of its batch as a number"
_SCOPES = "pkg.torch.onnx.name_scopes"
"""The exporter's note on a node: paths of the modules around it, and the operation, as a Python list."""
_WRAPPED = "inner."
_CLOSE = 1e-3
"""Share of the largest answer by which the recording may differ from the network: sums in another order."""


def record(net: Network) -> tuple[Any, Network]:
    """Record a network as an ExportedProgram.

    Returns:
        The program, and the network with the inputs that the program takes: with a batch of one where it had to be.

    Raises:
        SourceError: `source-untraceable`.
        UsageError: `shape-conflict`: a free size that is no batch must be fixed.
        ConversionError: `torch-export-differs`: the recording does not answer as the network does.
    """
    program = _recorded(net)
    if _batch_is_fixed(program, net):
        net = net.with_batch_of_one()
        net = replace(net, notes=(*net.notes, _FIXED_NOTE))
        program = _recorded(net)
    _refuse_fixed(program, net)
    differing = _differing(callable_of(program), net, _SAMPLES)
    if differing is not None:
        raise ConversionError(
            "torch-export-differs", f"the recorded network answers {differing!r} otherwise than the network itself"
        )
    return program, net


def callable_of(program: Any) -> Any:
    """What answers as the program does.

    Without its guards on sizes: they forbid a batch of 1 wherever PyTorch looked whether it was 1, though the recording
    is made for any. That the answers are right all the same is checked by `record`.
    """
    with quiet():
        return program.module(check_guards=False)


def to_onnx(program: Any, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> tuple[Any, dict[str, str]]:
    """The ONNX graph of a program, all weights inside, the same for the same program.

    Returns:
        A ModelProto whose inputs and outputs have the given names; and tensor -> path of the module that makes it.

    Raises:
        SourceError: `source-stateful`: the network changes its own buffers.
        ConversionError: `op-unsupported-conversion`: lists the operators; `torch-conversion-failed`.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    try:
        # Fused attention lays its answer out in memory as torch.onnx' spelling of it does not, and views fail on that.
        with quiet(), sdpa_kernel(SDPBackend.MATH):
            written: Any = torch.onnx.export(
                spelling.spelled(program),
                input_names=list(inputs),
                output_names=list(outputs),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
            model = written.model_proto
    except torch.onnx.errors.OnnxExporterError as error:
        raise _explained(error, program) from error
    # In the program as it was recorded, such changes are hidden in operations that work in place.
    _refuse_state(written.exported_program)
    modules = _modules(model.graph)
    _tidy(model)
    return model, modules


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep PyTorch's remarks off the terminal; what matters of them is raised or checked."""
    logger = logging.getLogger("torch")
    before = logger.level
    said = io.StringIO()
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _recorded(net: Network) -> Any:
    import torch
    from torch.fx.experimental import _config

    free = torch.export.Dim.AUTO
    sizes = tuple({axis: free for axis, size in enumerate(spec.shape) if size is None} for spec in net.inputs)
    try:
        with quiet(), torch.no_grad(), _config.patch(backed_size_oblivious=True), _unlooked_masks():
            return torch.export.export(net.flat, net.sample, dynamic_shapes=(sizes,), strict=False)
    except Exception as error:  # the network is the user's own code, and what torch.export raises has no common base
        raise SourceError(
            "source-untraceable",
            f"PyTorch cannot record the network: {_untraceable(error)}{where(error)}",
            cause="torch.export records tensor operations; Python that looks at values (if x.sum() > 0, .item(), "
            ".numpy()) or changes its path by them cannot be recorded.",
            next_step="Replace what the message names by tensor operations (torch.where, a fixed number of steps), or "
            "fix all sizes with --input. torch.export.export(model, (sample,)) shows the whole error.",
        ) from error


@contextlib.contextmanager
def _unlooked_masks() -> Iterator[None]:
    """Keep PyTorch's own Transformer from looking at the values of its masks.

    It looks whether one is the causal one, for a faster way to the same answer; the mask itself is used either way.
    """
    from torch.nn.modules import transformer

    def told(mask: Any, is_causal: bool | None = None, size: int | None = None) -> bool:
        del mask, size
        return is_causal is True

    before = transformer._detect_is_causal_mask  # noqa: SLF001 - what looks
    transformer._detect_is_causal_mask = told  # noqa: SLF001
    try:
        yield
    finally:
        transformer._detect_is_causal_mask = before  # noqa: SLF001


def _untraceable(error: Exception) -> str:
    said = reason(error)
    # What torch.export then says is about symbols of its own.
    return "its Python looks at the values of a tensor" if "data-dependent" in said else said


def _batch_is_fixed(program: Any, net: Network) -> bool:
    """Whether a batch that should be free was recorded as a number, or as one that one or many samples cannot be."""
    asked = [
        value.shape[0]
        for spec, value in zip(net.inputs, _taken(program), strict=True)
        if spec.shape and spec.shape[0] is None
    ]
    if not asked:
        return False
    if not all(fixed(size) is None and _unbounded(program, size.node.expr) for size in asked):
        return True
    call = callable_of(program)
    try:
        return any(_differing(call, net, batch) is not None for batch in _BATCHES)
    except _REFUSALS:  # the network's own or the recording's: the batch must be even, or the like
        return True


def _refuse_state(program: Any) -> None:
    changed = sorted(set(program.graph_signature.buffers_to_mutate.values()))
    if changed:
        names = ", ".join(name.removeprefix("inner.") for name in changed)
        raise SourceError(
            "source-stateful",
            f"the network changes a buffer each time it is asked: {names}",
            next_step="Make the state an input and an output of forward, and feed each answer's state to the next "
            "call.",
        )


def _unbounded(program: Any, expression: Any) -> bool:
    if not expression.is_Symbol:
        return False
    bounds = program.range_constraints.get(expression)
    return bounds is None or (bounds.lower <= 1 and not getattr(bounds.upper, "is_Integer", False))


def _refuse_fixed(program: Any, net: Network) -> None:
    for spec, value in zip(net.inputs, _taken(program), strict=True):
        for axis, (wanted, found) in enumerate(zip(spec.shape, value.shape, strict=True)):
            if wanted is None and fixed(found) is not None:
                sizes = ",".join("N" if size is None else str(size) for size in spec.shape)
                raise UsageError(
                    "shape-conflict",
                    f"axis {axis} of {spec.name} ({sizes}) cannot be free: the network computes with its size as a "
                    "number",
                    next_step=f"Fix it with --input {spec.name}=..., as the network was trained.",
                )


def _taken(program: Any) -> list[Any]:
    wanted = set(program.graph_signature.user_inputs)
    return [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in wanted]


def _differing(recorded: Any, net: Network, batch: int) -> str | None:
    """The output that the recording answers otherwise than the network."""
    import torch

    sample = net.sample_of(batch)
    with quiet(), torch.no_grad():
        pairs = zip(net.outputs, net.flat(*sample), recorded(*sample), strict=True)
    for name, expected, found in pairs:
        one, other = expected.detach().double(), found.detach().double()
        bound = _CLOSE * max(1.0, float(one.abs().max()) if one.numel() else 0.0)
        if one.shape != other.shape or not torch.allclose(one, other, 0.0, bound, equal_nan=True):
            return name
    return None


def _explained(error: Exception, program: Any) -> ConversionError:
    said = reason(error)
    found = _UNSUPPORTED.search(said)
    if found:
        op = found[1].replace("::", ".")
        if _is_complex(program):
            return ConversionError(
                "op-unsupported-conversion",
                f"ONNX has no operator for {op} of complex numbers",
                cause="No tensor of ONNX or TFLite is complex; torch.onnx writes some operations on complex numbers "
                "as ones on their two parts, and this not.",
                next_step="Compute with real and imaginary parts (torch.view_as_real, products of cos and sin).",
                ops=[op],
                format="onnx",
            )
        return ConversionError(
            "op-unsupported-conversion",
            f"ONNX has no operator for {op} as the network uses it",
            cause="torch.onnx knows no way to write this operation with standard ONNX operators.",
            next_step="Replace it in the network by simpler operations, or move it out of the model into pre- or "
            "post-processing.",
            ops=[op],
            format="onnx",
        )
    return ConversionError("torch-conversion-failed", f"torch.onnx refused the network: {said}")


def _is_complex(program: Any) -> bool:
    import torch

    values = (node.meta.get("val") for node in program.graph.nodes)
    return any(isinstance(value, torch.Tensor) and value.is_complex() for value in values)


def _modules(graph: Any) -> dict[str, str]:
    """Tensor -> path of the module that makes it: of its weight, else as the exporter noted it."""
    found = {}
    for node in graph.node:
        weights = [name.rpartition(".")[0] for name in node.input if name.endswith(".weight")]
        noted = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "[]")
        scopes = [part for part in ast.literal_eval(noted)[:-1] if part]
        path = (weights or scopes[-1:] or [""])[0]
        path = "" if f"{path}." == _WRAPPED else path.removeprefix(_WRAPPED)
        if path:
            found.update(dict.fromkeys(node.output, path))
    return found


def _tidy(model: Any) -> None:
    """Drop texts that name files and lines of the machine, in place."""
    graphs = [model.graph, *model.functions]
    for owner in (model, *graphs, *(node for graph in graphs for node in graph.node)):
        owner.ClearField("metadata_props")
        owner.ClearField("doc_string")
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer):
        value.ClearField("metadata_props")
        value.ClearField("doc_string")
    _name_sizes(model.graph)


def _name_sizes(graph: Any) -> None:
    """Call the free batch "batch" and other free sizes by their input and axis, in place; torch.export numbers them."""
    names: dict[str, str] = {}
    for value in graph.input:
        for axis, size in enumerate(value.type.tensor_type.shape.dim):
            if size.dim_param.isidentifier():
                names.setdefault(size.dim_param, BATCH if axis == 0 else f"{value.name}_{axis}")
    for value in (*graph.input, *graph.output, *graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = _SYMBOL.sub(lambda found: names.get(found[0], found[0]), size.dim_param)
