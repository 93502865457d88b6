"""A finished draft as a TFLite file."""

from __future__ import annotations

from edgekit.converters.onnx_to_tflite.draft import Draft, Kernel, Op, Tensor, kernels
from edgekit.converters.tflite_graphs import graph as files
from edgekit.converters.tflite_graphs.builder import Builder

SIGNATURE = "serving_default"


def write(draft: Draft, *, floats: bool = False) -> bytes:
    """The file; inputs and outputs have their public names in its signature, equal drafts give equal bytes.

    Args:
        draft: The graph.
        floats: No range is kept for a tensor by its name: those of steps that are alike share one, and thereby all
            else that the file says of them (a third of the file of an LSTM).
    """
    builder = Builder()
    places: dict[Tensor, int] = {}
    for tensor in draft.inputs:
        places[tensor] = builder.input(tensor.name, tensor.shape, tensor.dtype, free=tensor.free)
    taken = {tensor.name for tensor in (*draft.inputs, *draft.outputs)}
    for op in draft.ops:
        for made in op.outputs:
            if made not in draft.outputs:
                common = _common(draft, op, made) if floats else None
                made.name = _unique(made.name, taken) if common is None else common
            places[made] = builder.tensor(made.name, made.shape, made.dtype, quant=made.quant, free=made.free)
    for op in draft.ops:
        for number, part in enumerate(op.inputs):
            if part is not None and part not in places:
                if part.data is None:
                    raise KeyError(f"{op.kind} of {op.origin} reads {part.name}, which nothing makes")
                name = _unique(f"{op.origin or part.name}/{_role(op, number)}", taken)
                places[part] = builder.constant(name, part.data, part.quant)
    for op in draft.ops:
        kernel = kernels()[op.kind]
        inputs = [-1 if part is None else places[part] for part in op.inputs]
        outputs = [places[made] for made in op.outputs]
        builder.operator(op.kind, inputs, outputs, kernel.options, op.options, version=_version(op, kernel))
    model = builder.model([places[tensor] for tensor in draft.outputs], signature=SIGNATURE)
    return files.dump(model)


def _common(draft: Draft, op: Op, made: Tensor) -> str | None:
    """What a tensor inside a step is called as its like in all the others."""
    steps = draft.alike.get(op.origin)
    inside = steps is not None and made.name.startswith(f"{op.origin}/")
    return f"{steps}/{op.kind.lower()}" if inside else None


def _unique(name: str, taken: set[str]) -> str:
    found, number = name, 0
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    taken.add(found)
    return found


_WEIGHTED = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "CONV_3D"})


def _role(op: Op, number: int) -> str:
    if op.kind in _WEIGHTED:
        return ("input", "weights", "bias")[number]
    if op.kind == "TRANSPOSE_CONV":
        return ("shape", "weights", "input", "bias")[number]
    return "constant"


def _version(op: Op, kernel: Kernel) -> int:
    """The lowest version of the operator whose kernels do what it is asked for."""
    if op.kind == "TRANSPOSE_CONV":
        return 3 if len(op.inputs) > 3 and op.inputs[3] is not None else 1
    if op.kind == "FULLY_CONNECTED" and op.options.get("keepNumDims"):
        return max(5, kernel.version)
    if op.kind == "DEPTHWISE_CONV_2D" and (op.options["dilationHFactor"], op.options["dilationWFactor"]) != (1, 1):
        return 2
    return kernel.version


def summary(draft: Draft) -> dict[str, int]:
    """Operator -> how often."""
    found: dict[str, int] = {}
    for op in draft.ops:
        found[op.kind] = found.get(op.kind, 0) + 1
    return dict(sorted(found.items()))
