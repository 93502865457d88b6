"""ONNX: from the protobuf message to `ModelFacts`.

Weights listed among the graph's inputs, as files before IR version 4 do, are not inputs. Ops inside If, Loop and Scan
and in local functions are listed; what they multiply depends on the data or is not known, and so are the totals then.
"""

from __future__ import annotations

from collections.abc import Iterable

from edgekit.formats import arena, onnx_arena, onnx_macs, onnx_trees
from edgekit.formats.facts import ModelFacts, Operand, OpFacts, arithmetic, derive_precision, elements, total
from edgekit.formats.graph import GraphFacts
from edgekit.formats.onnx_graph import Uses, output_types, quant_of_input, quant_of_output, walk
from edgekit.formats.onnx_model import Const, Graph, Model, Node, Value
from edgekit.formats.onnx_proto import Reader
from edgekit.formats.onnx_rules import infer
from edgekit.formats.onnx_shapes import Shapes
from edgekit.tensors import DTYPES, INTEGER_RANGE, TensorSpec

_FIRST_WITH_DEFAULTS = 4
_FIRST_WITH_OPSETS = 3
"""IR version from which a model must say which operator sets it uses."""

_RESIZINGS = ("Resize", "Upsample")
_GROUPED = frozenset({"Conv", "ConvInteger", "ConvTranspose", "FusedConv", "QLinearConv"})
_UNKNOWN = Operand(None, "")
_ALWAYS_DYNAMIC = frozenset({"DynamicQuantizeMatMul", "MatMulIntegerToFloat", "DynamicQuantizeLSTM", "MatMulNBits"})


def read(data: bytes, end: int) -> ModelFacts:
    """Read an `.onnx` file.

    Args:
        data: The whole file.
        end: Where the model's own bytes end.

    Raises:
        ValueError: It contradicts the format or points outside itself.
    """
    reader = Reader(data, end)
    model = reader.model()
    graph = model.graph
    if graph is None:
        raise ValueError("it has no graph")
    if model.ir_version >= _FIRST_WITH_OPSETS and not model.opsets:
        raise ValueError("it names no operator set: the file is cut short or damaged")
    uses = Uses(graph)
    at, types = _survey(graph, uses, reader)
    inputs, outputs, notes = _interface(graph, uses, reader)
    ops = _ops(model, graph, at, types)
    constants = _constants(model, graph)
    known = onnx_arena.folded(graph, at)
    nodes = onnx_arena.executed(graph, uses, known, types)
    live = onnx_arena.graph_facts(graph, known, types, at, nodes)
    names = {value.name for value in graph.inputs} | set(uses.maker) | set(uses.constants)
    return ModelFacts(
        format="onnx",
        inputs=inputs,
        outputs=outputs,
        ops=ops,
        tensors=len(names),
        parameters=_parameters(model, graph, uses),
        weight_bytes=sum(const.bytes for const in constants) + _attribute_bytes(graph),
        arena_bytes=_arena(live, (step for _, step in nodes)),
        macs=total(op.macs for op in ops),
        bytes=len(data),
        precision=_precision(graph, uses, types),
        opsets=dict(sorted(model.opsets.items())),
        producer=f"{model.producer} {model.producer_version}".strip(),
        description=model.description,
        metadata={"ir_version": str(model.ir_version), **{k: f"{n} bytes" for k, n in model.metadata.items()}},
        external=tuple(sorted({const.location for const in constants if const.location is not None})),
        notes=tuple(notes),
        graphs=(live,),
    )


def _survey(graph: Graph, uses: Uses, reader: Reader) -> tuple[Shapes, dict[str, str]]:
    """Shapes, free sizes of the inputs counted as 1, and element types of the main graph's tensors."""
    at, types = Shapes(reader), {}
    for name, const in graph.constants.items():
        at.constant(const, name)
        types[name] = const.dtype
    free: set[str] = set()
    for value in graph.inputs:
        types.setdefault(value.name, value.dtype)
        if value.name not in graph.constants and value.shape is not None:
            free.update(size for size in value.shape if isinstance(size, str))
            at.shapes[value.name] = tuple(size if isinstance(size, int) else 1 for size in value.shape)
    said = {**graph.values, **{value.name: value for value in graph.outputs}}
    for node in graph.nodes:
        _constant_node(node, at)
        types.update(zip(node.outputs, output_types(node, types, uses.constants), strict=False))
        infer(node, at)
        for value in (said[name] for name in node.outputs if name in said):
            name = value.name
            types[name] = value.dtype or types.get(name, "")
            if name not in at.shapes and value.shape is not None and all(_settled(s, free) for s in value.shape):
                at.shapes[name] = tuple(size if isinstance(size, int) else 1 for size in value.shape)
    return at, types


def _settled(size: int | str | None, free: set[str]) -> bool:
    """A number, or the very size that an input leaves free."""
    return isinstance(size, int) or size in free


def _constant_node(node: Node, at: Shapes) -> None:
    if node.op != "Constant" or not node.outputs:
        return
    name = node.outputs[0]
    if node.tensor is not None:
        at.constant(node.tensor, name)
    elif "value_int" in node.ints:
        at.shapes[name], at.numbers[name] = (), [node.ints["value_int"]]
    elif "value_float" in node.floats:
        at.shapes[name], at.numbers[name] = (), [node.floats["value_float"]]
    elif "value_ints" in node.lists:
        at.shapes[name] = (len(node.lists["value_ints"]),)
        at.numbers[name] = list(node.lists["value_ints"])


def _interface(
    graph: Graph, uses: Uses, reader: Reader
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], list[str]]:
    notes: list[str] = []

    def specs(side: str, values: Iterable[Value]) -> tuple[TensorSpec, ...]:
        found = []
        for value in values:
            if value.dtype not in DTYPES:
                what = f"has element type {value.dtype}" if value.dtype else f"is {value.what}"
                notes.append(f"{side} {value.name} {what}, which no runtime here can feed or read")
                continue
            if value.shape is None:
                notes.append(f"{side} {value.name} has no shape in the file")
            shape = tuple(size if isinstance(size, int) else None for size in value.shape or ())
            quant = None
            if value.dtype in INTEGER_RANGE:
                seek = quant_of_input if side == "input" else quant_of_output
                quant = seek(value.name, uses, reader)
            found.append(TensorSpec(value.name, shape, value.dtype, quant=quant))
        return tuple(found)

    inputs = specs("input", (value for value in graph.inputs if value.name not in graph.constants))
    return inputs, specs("output", graph.outputs), notes


def _ops(model: Model, graph: Graph, at: Shapes, types: dict[str, str]) -> tuple[OpFacts, ...]:
    """All nodes; a call of a local function is not an op, the nodes of its body are, once."""
    nowhere = Shapes(at.reader)
    found = []
    # Weights that are also listed as inputs may be overridden: no engine treats them as constant. Files of IR versions
    # before 4 had to list all of them, and there nothing may be overridden.
    fed = {value.name for value in graph.inputs} if model.ir_version >= _FIRST_WITH_DEFAULTS else set()
    operands = _Operands(at, types, onnx_arena.folded(graph, at) - fed)
    parts = [*walk(graph), *(inner for body in model.functions.values() for inner in walk(body))]
    for part in parts:
        known, kinds = (at, types) if part is graph else (nowhere, {})
        for node in part.nodes:
            if (node.domain, node.op) in model.functions:
                continue
            macs = onnx_macs.count(node, known)
            if node.graphs and not any(onnx_macs.count(n, nowhere) != 0 for g in node.graphs for n in _nodes(g)):
                macs = 0
            first = node.outputs[0] if node.outputs else ""
            found.append(
                OpFacts(
                    kind=node.kind,
                    name=node.name or first,
                    version=None,
                    inputs=tuple(node.inputs),
                    outputs=tuple(node.outputs),
                    macs=macs,
                    dtype=kinds.get(first, ""),
                    reads=tuple(operands(name, part is graph) for name in node.inputs),
                    writes=tuple(operands(name, part is graph) for name in node.outputs),
                    window=_window(node),
                    groups=node.ints.get("group", 1) if node.op in _GROUPED else 0,
                    blends=node.op in _RESIZINGS and node.texts.get("mode", "nearest") != "nearest",
                    visits=onnx_trees.visits(node),
                )
            )
    return tuple(found)


class _Operands:
    """Tensors of the main graph by name, each described once; those inside nodes and functions are not known."""

    def __init__(self, at: Shapes, types: dict[str, str], known: set[str]) -> None:
        self._at, self._types, self._known = at, types, known
        self._seen: dict[str, Operand] = {}

    def __call__(self, name: str, known: bool) -> Operand | None:
        if not name:
            return None
        if not known:
            return _UNKNOWN
        if name not in self._seen:
            made = Operand(self._at.shapes.get(name), self._types.get(name, ""), name in self._known)
            self._seen[name] = made
        return self._seen[name]


def _window(node: Node) -> tuple[int, ...]:
    return tuple(node.lists.get("kernel_shape", ())) if node.op.endswith("Pool") else ()


def _nodes(graph: Graph) -> list[Node]:
    return [node for part in walk(graph) for node in part.nodes if not node.graphs]


def _constants(model: Model, graph: Graph) -> list[Const]:
    parts = [*walk(graph), *(inner for body in model.functions.values() for inner in walk(body))]
    held = [const for part in parts for const in part.constants.values()]
    return held + [node.tensor for part in parts for node in part.nodes if node.op == "Constant" and node.tensor]


def _attribute_bytes(graph: Graph) -> int:
    """Classic estimators keep their numbers in attributes."""
    return sum(n.attribute_bytes for part in walk(graph) for n in part.nodes if n.domain == "ai.onnx.ml")


def _parameters(model: Model, graph: Graph, uses: Uses) -> int:
    held = sum(elements(const.dims) for name, const in uses.constants.items() if uses.is_parameter(name, const))
    for body in model.functions.values():
        inner = Uses(body)
        held += sum(elements(const.dims) for name, const in inner.constants.items() if inner.is_parameter(name, const))
    return held + sum(node.counts.get("coefficients", 0) for part in walk(graph) for node in part.nodes)


def _arena(graph: GraphFacts, steps: Iterable[arena.Step]) -> int | None:
    sizes = graph.sizes()
    if sizes is None or graph.calls:
        return None
    return arena.plan(sizes, list(steps), graph.inputs, graph.outputs)


def _precision(graph: Graph, uses: Uses, types: dict[str, str]) -> str:
    kinds: set[str] = set()
    for part in walk(graph):
        for node in part.nodes:
            places = onnx_macs.WEIGHTED.get(node.kind)
            if places is None or places[0] == places[1]:
                continue
            data, weight = (_stored_type(node.input(place), uses, types) for place in places)
            maker = uses.maker.get(node.input(places[0]))
            running = node.op in _ALWAYS_DYNAMIC or (maker is not None and maker.op == "DynamicQuantizeLinear")
            kinds.add("dynamic" if running else arithmetic(data, weight))
    return derive_precision(kinds, set(types.values()))


def _stored_type(name: str, uses: Uses, types: dict[str, str]) -> str:
    source = uses.stored(name)
    return uses.constants[source].dtype if source in uses.constants else types.get(source, "")
