"""A TensorFlow model with named inputs and outputs: what both TensorFlow loaders make and both lowerings take.

Keras 2, Keras 3 and SavedModels meet in one form: a traced function from keyword arguments to a dict, whose keywords
and keys are the public names. Answers for verification and both lowerings come from that same trace, so that what is
verified is what was converted, and names are carried by the signature, never matched by position or shape.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgekit.converters.loaded import Loaded
from edgekit.converters.stages import Feeds, LoadedFacts
from edgekit.converters.verification.answering import Answering
from edgekit.errors import FeedError, SourceError, UsageError
from edgekit.tensors import DTYPES, UNFED, Layout, TensorSpec

if TYPE_CHECKING:
    from pathlib import Path


Shapes = Mapping[str, tuple[int | None, ...]]
Answer = Callable[[dict[str, Any]], dict[str, Any]]
"""Public input name -> tensor, to public output name -> tensor."""

NAMES = "edgekit_names.json"

_LAYOUTS: dict[str, Layout] = {"NHWC": "NHWC", "NCHW": "NCHW", "NDHWC": "NDHWC", "NCDHW": "NCDHW"}


@dataclass(frozen=True)
class TfModel:
    """A traced model; the `handle` of both TensorFlow loaders.

    Attributes:
        function: ConcreteFunction: keywords (`TensorSpec.key` of the inputs) -> dict (`key` of the outputs).
        inputs, outputs: Public names; `tensor` is the keyword where a public name cannot be one.
        answer: What was traced, to trace it again with other shapes.
        keep: Objects that own the variables and tables.
    """

    function: Any
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    answer: Answer
    keep: tuple[Any, ...] = ()

    def with_shapes(self, shapes: Shapes) -> TfModel:
        """The same model traced with other sizes; see `reshape`."""
        return trace(self.answer, reshape(self.inputs, shapes), keep=self.keep)

    def export(self, folder: Path) -> str:
        """Write a SavedModel with one signature, `serving_default`, and no more; returns the signature's name."""
        import tensorflow as tf

        name = "serving_default"
        tf.saved_model.save(holder(self.function, self.keep), str(folder), signatures={name: self.function})
        return name

    def write_names(self, folder: Path, notes: tuple[str, ...] = ()) -> None:
        """Put the public names and their order beside an exported SavedModel, which keeps neither, and notes."""
        names = {
            "inputs": {s.key: s.name for s in self.inputs},
            "outputs": {s.key: s.name for s in self.outputs},
            "notes": notes,
        }
        (folder / NAMES).write_text(json.dumps(names), encoding="utf-8")


def loaded(facts: LoadedFacts, model: TfModel) -> Loaded:
    """The traced model, answering by TensorFlow."""

    def call(arrays: Feeds) -> Feeds:
        import tensorflow as tf

        try:
            answers = model.function(**{spec.key: tf.constant(arrays[spec.name]) for spec in model.inputs})
        except (tf.errors.OpError, ValueError, TypeError) as error:
            raise FeedError("source-run", f"the source cannot answer these inputs: {_reason(error)}") from error
        return {spec.name: answers[spec.key].numpy() for spec in model.outputs}

    return Loaded(facts, model, Answering(facts.inputs, call, outputs=facts.outputs))


def trace(
    answer: Answer, inputs: tuple[TensorSpec, ...], *, keep: tuple[Any, ...] = (), autograph: bool = False
) -> TfModel:
    """Trace `answer` once.

    Args:
        answer: The computation.
        inputs: Public names, shapes (None: free), dtypes.
        keep: Objects that own what it captures.
        autograph: Let Python control flow of the author's own layers be traced; files hold none.

    Raises:
        SourceError: `source-stateful`; `source-dtype`, `source-rank`: of an output.
    """
    import tensorflow as tf

    keys = identifiers([spec.name for spec in inputs])
    inputs = tuple(replace(s, tensor=key if key != s.name else None) for s, key in zip(inputs, keys, strict=True))

    order: list[str] = []

    @tf.function(autograph=autograph)  # type: ignore[untyped-decorator, unused-ignore]
    def call(**feeds: Any) -> dict[str, Any]:
        answers = answer({spec.name: feeds[spec.key] for spec in inputs})
        order[:] = answers  # TensorFlow sorts the keys
        # bfloat16 is no dtype of numpy, nor of an engine.
        return {n: tf.cast(v, tf.float32) if v.dtype == tf.bfloat16 else tf.identity(v) for n, v in answers.items()}

    function = call.get_concrete_function(
        **{spec.key: tf.TensorSpec(spec.shape, spec.dtype, name=spec.key) for spec in inputs}
    )
    definition = function.graph.as_graph_def()
    _refuse_state(definition)
    layout = _layout(definition)
    inputs = tuple(
        replace(spec, layout=layout if layout and len(layout) == len(spec.shape) else None) for spec in inputs
    )
    outputs = tuple(spec_of(name, function.structured_outputs[name]) for name in order)
    return TfModel(function, inputs, outputs, answer, keep)


def _reason(error: Exception) -> str:
    """What TensorFlow says, without the stack of whoever traced the graph, which it puts in front."""
    said = [line.strip() for line in str(error).splitlines() if not line.startswith(("  File ", "\t [["))]
    told = [line for line in said if line and not line.startswith(("Graph execution error", "Detected at node"))]
    return " ".join(told or [type(error).__name__])[:300]


def holder(function: Any, keep: tuple[Any, ...] = ()) -> Any:
    """An object that owns what a traced function captures, and nothing else, for `tf.saved_model.save`.

    Saving the model object itself would trace each of its layers for itself, which takes four times as long.
    """
    import tensorflow as tf

    root = tf.Module()
    root.variables_ = list(function.graph.variables)
    handles = {id(variable.handle) for variable in root.variables_}
    if any(t.dtype == tf.resource and id(t) not in handles for t in function.captured_inputs):
        root.keep_ = list(keep)  # lookup tables and their like can be saved only by their owner
    return root


def reshape(inputs: tuple[TensorSpec, ...], shapes: Shapes) -> tuple[TensorSpec, ...]:
    """Replace free sizes.

    Args:
        inputs: What the source declares.
        shapes: Input name -> all sizes, None where it stays free.

    Raises:
        UsageError: `input-unknown`, `shape-conflict`.
    """
    known = {spec.name: spec for spec in inputs}
    for name, shape in shapes.items():
        if name not in known:
            raise UsageError("input-unknown", f"no input is called {name!r}; known: {', '.join(known)}")
        declared = known[name].shape
        if len(shape) != len(declared) or any(d not in (None, s) for d, s in zip(declared, shape, strict=True)):
            raise UsageError(
                "shape-conflict",
                f"the shape {_sizes(shape)} does not fit {known[name].describe()}: only free sizes can be set",
            )
    return tuple(replace(spec, shape=tuple(shapes.get(spec.name, spec.shape))) for spec in inputs)


def spec_of(name: str, tensor: Any) -> TensorSpec:
    """TensorSpec of a symbolic tensor, a Keras tensor or a tf.TensorSpec.

    Raises:
        SourceError: `source-dtype`, `source-rank`: a tensor that no engine can take.
    """
    dtype = getattr(tensor.dtype, "name", None) or str(tensor.dtype)
    if dtype not in DTYPES or dtype in UNFED:
        raise SourceError("source-dtype", f"the tensor {name!r} is {dtype}, which no engine on a device takes")
    shape = tensor.shape
    if getattr(shape, "rank", 0) is None:
        raise SourceError("source-rank", f"the tensor {name!r} has no fixed number of dimensions")
    return TensorSpec(name=name, shape=tuple(None if size is None else int(size) for size in shape), dtype=dtype)


def unique(names: list[str]) -> list[str]:
    """The names, with `_1`, `_2`, ... behind those that occurred before."""
    found: list[str] = []
    for name in names:
        candidate, number = name, 0
        while candidate in found:
            number += 1
            candidate = f"{name}_{number}"
        found.append(candidate)
    return found


def identifiers(names: list[str]) -> list[str]:
    """Keyword names for public names: unchanged where they are identifiers."""
    plain = [re.sub(r"\W", "_", name, flags=re.ASCII) for name in names]
    return unique([name if name[:1].isalpha() else f"input_{name}" for name in plain])


def _refuse_state(definition: Any) -> None:
    """A `.tflite` would keep the variables from sample to sample, in the order in which they come.

    Only what is called counts: a SavedModel's library may hold its training step as well.
    """
    library = {item.signature.name: item.node_def for item in definition.library.function}
    waiting, seen = [definition.node], set[str]()
    while waiting:
        for node in waiting.pop():
            if node.op.startswith(_ASSIGNING):
                raise SourceError("source-stateful", f"the model changes a variable each time it is asked: {node.name}")
            called = {node.op}.union(*(_functions(value) for value in node.attr.values())) & library.keys() - seen
            seen |= called
            waiting += [library[name] for name in called]


def _functions(value: Any) -> set[str]:
    """Names of the functions in an attribute of a node."""
    return {value.func.name, *(func.name for func in value.list.func)}


_ASSIGNING = ("Assign", "ResourceApply", "ResourceScatter", "ResourceSparseApply", "ResourceStridedSliceAssign")


def _layout(definition: Any) -> Layout | None:
    """Meaning of the axes of image inputs: what all convolutions and poolings of the graph agree on."""
    bodies = [definition.node, *(item.node_def for item in definition.library.function)]
    formats = {
        node.attr["data_format"].s.decode()
        for body in bodies
        for node in body
        if node.op in _SPATIAL_OPS and "data_format" in node.attr
    }
    return _LAYOUTS.get(formats.pop()) if len(formats) == 1 else None


_SPATIAL_OPS = frozenset({
    "AvgPool", "AvgPool3D", "Conv2D", "Conv2DBackpropInput", "Conv3D", "DepthwiseConv2dNative", "FusedBatchNormV3",
    "MaxPool", "MaxPool3D",
})  # fmt: skip


def _sizes(shape: tuple[int | None, ...]) -> str:
    return "[" + ",".join("N" if size is None else str(size) for size in shape) + "]"
