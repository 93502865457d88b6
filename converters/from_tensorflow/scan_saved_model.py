"""What a SavedModel would do when it is loaded or run, found out before TensorFlow loads it.

A SavedModel is a graph of TensorFlow ops with a function library, and among the ops are some that call Python, read
and write files, or talk to the network. The protobuf is parsed, not executed, and every node of every function is
judged. Which ops are refused is data, below.

Saving and restoring checkpoints is a case of its own: every SavedModel carries functions for it, which the loader
never runs. They pass as long as no signature, initializer or exported function can reach them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from edgekit.converters.from_tensorflow.scan_keras import Finding
from edgekit.errors import SourceError, UnsafeSourceError, UsageError

GRAPH, GRAPH_TEXT, GRAPH_CHUNKED = "saved_model.pb", "saved_model.pbtxt", "saved_model.cpb"
INTERNAL_SIGNATURES = frozenset({"__saved_model_init_op", "__saved_model_train_op"})
DEFAULT_SIGNATURE = "serving_default"

CHECKPOINT_OPS = frozenset({
    "MergeV2Checkpoints", "Restore", "RestoreSlice", "RestoreV2", "Save", "SaveSlices", "SaveV2", "ShardedFilename",
    "ShardedFilespec",
})  # fmt: skip

UNSAFE_OPS = {
    "calls Python": r"(Eager)?PyFunc(Stateless)?",
    "reads or writes files": r".*File.*|LoadAndRemapMatrix|ImmutableConst|PrintV2|(De|En)codeProto(V2)?|DistributedSave"
    r"|.*(?<!Make)(?<!MakeStats)Summary(V\d)?|.*SummaryWriter|.*SummaryDbWriter|Write.*Summary|RecordInput|.*TRT.*",
    "reads or writes files through a data pipeline": r".*Dataset.*|.*Iterator.*|.*Reader(V\d)?|Reader.*|.*(LMDB|Sql).*"
    r"|.*Bigtable.*|.*Kafka.*",
    "talks to other machines or devices": r"Collective.*|_?(Host)?(Send|Recv)|.*TPU.*|.*Rpc.*|RemoteCall"
    r"|RemoteFusedGraphExecute|_?Xla(Send|Recv)\w*|Debug\w+",
    "ends the process": r"Abort",
}
"""Why -> a pattern of op names (matched in full). Checked against all op names of TensorFlow 2.21."""

_UNSAFE = [(why, re.compile(pattern)) for why, pattern in UNSAFE_OPS.items()]
_SIZE_LIMIT = 2 << 30
"""Protobuf's own limit of one message."""


def unsafe(op: str) -> str | None:
    """Why an op is refused; None for one that only computes."""
    if op in CHECKPOINT_OPS:
        return None
    return next((why for why, pattern in _UNSAFE if pattern.fullmatch(op)), None)


def check_folder(folder: Path) -> None:
    """Refuse a folder that reaches outside itself or whose graph could be read in two ways.

    Raises:
        UnsafeSourceError: `source-unsafe-archive`.
    """
    root = folder.resolve()
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            item = Path(place, name)
            if item.is_symlink() and not item.resolve().is_relative_to(root):
                raise UnsafeSourceError(
                    "source-unsafe-archive",
                    f"{item.relative_to(folder)} is a symbolic link that leaves {folder.name}",
                )
    others = [name for name in (GRAPH_TEXT, GRAPH_CHUNKED) if (folder / name).exists()]
    if others:
        raise UnsafeSourceError(
            "source-unsafe-archive", f"{folder.name} holds {others[0]} beside {GRAPH}: which one counts is unclear"
        )


def parse(folder: Path) -> Any:
    """The SavedModel protobuf, parsed but not executed.

    Raises:
        SourceError: `source-unreadable`.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    path = folder / GRAPH
    if path.stat().st_size >= _SIZE_LIMIT:
        raise SourceError("source-unreadable", f"{path} is larger than a protobuf may be (2 GiB)")
    model = saved_model_pb2.SavedModel()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise SourceError("source-unreadable", f"{path} is damaged: {error}") from error
    if not model.meta_graphs:
        raise SourceError("source-unreadable", f"{path} holds no graph")
    return model


def judge(model: Any) -> Iterator[Finding]:
    """Everything in a SavedModel protobuf that is not known to be harmless."""
    for meta in model.meta_graphs:
        library = meta.graph_def.library.function
        bodies = [("the graph", meta.graph_def.node), *((f.signature.name, f.node_def) for f in library)]
        for where, nodes in bodies:
            for op in sorted({node.op for node in nodes}):
                why = unsafe(op)
                if why:
                    yield Finding("code", f"the op {op} in {where} {why}")
        for op in sorted(_reachable_ops(meta) & CHECKPOINT_OPS):
            yield Finding("code", f"the op {op}, outside the checkpoint's own functions, reads or writes files")
        for asset in meta.asset_file_def:
            if Path(asset.filename).name != asset.filename or asset.filename in ("", ".", ".."):
                yield Finding("code", f"the asset {asset.filename!r} lies outside the folder")


def signatures(meta: Any) -> dict[str, Any]:
    """Name -> SignatureDef of what a user may call."""
    return {name: meta.signature_def[name] for name in sorted(meta.signature_def) if name not in INTERNAL_SIGNATURES}


def choose_graph(model: Any, folder: Path) -> Any:
    """The meta graph for inference.

    Raises:
        SourceError: `source-no-serving-graph`.
    """
    for meta in model.meta_graphs:
        if "serve" in meta.meta_info_def.tags:
            return meta
    tags = ["+".join(meta.meta_info_def.tags) or "none" for meta in model.meta_graphs]
    raise SourceError("source-no-serving-graph", f"{folder.name} has no graph tagged 'serve', only {', '.join(tags)}")


def choose_signature(meta: Any, wanted: str | None, folder: Path) -> str:
    """Which signature to convert: the wanted one, the only one, or `serving_default`.

    Raises:
        UsageError: `signature-unknown`, `signature-ambiguous`; both list the signatures.
        SourceError: `signature-missing`.
    """
    known = signatures(meta)
    if not known:
        raise SourceError("signature-missing", f"{folder.name} has no signature, so that its inputs have no names")
    if wanted is not None:
        if wanted not in known:
            raise UsageError(
                "signature-unknown", f"{folder.name} has no signature {wanted!r}; {_list(known)}", known=list(known)
            )
        return wanted
    if len(known) == 1:
        return next(iter(known))
    if DEFAULT_SIGNATURE in known:
        return DEFAULT_SIGNATURE
    raise UsageError(
        "signature-ambiguous", f"{folder.name} has {len(known)} signatures: {_list(known)}", known=list(known)
    )


def _list(known: dict[str, Any]) -> str:
    return "it has " + ", ".join(
        f"{name} ({', '.join(sorted(s.inputs))} -> {', '.join(sorted(s.outputs))})" for name, s in known.items()
    )


def _reachable_ops(meta: Any) -> set[str]:
    """Ops that loading the model or calling any of its functions can run."""
    functions = {function.signature.name: function for function in meta.graph_def.library.function}
    nodes = {node.name: node for node in meta.graph_def.node}
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    todo = [("node", name) for name in _root_nodes(meta)]
    todo += [("function", name) for name in meta.object_graph_def.concrete_functions]
    # Grappler may swap in a function that claims to implement the same interface: count those as called.
    todo += [("function", name) for name, f in functions.items() if {"api_implements", "_implements"} & f.attr.keys()]
    while todo:
        item = todo.pop()
        if item in seen:
            continue
        seen.add(item)
        kind, name = item
        if kind == "function" and name in functions:
            body = functions[name].node_def
        elif kind == "node" and name in nodes:
            body = [nodes[name]]
            todo += [("node", _node_of(source)) for source in nodes[name].input]
        else:
            continue
        for node in body:
            found.add(node.op)
            todo += [("function", callee) for callee in _callees(node)]
    return found


def _root_nodes(meta: Any) -> Iterator[str]:
    for signature in meta.signature_def.values():
        for tensor in signature.outputs.values():
            yield _node_of(tensor.name)
            for part in tensor.composite_tensor.components:
                yield _node_of(part.name)
            if tensor.WhichOneof("encoding") == "coo_sparse":
                for part_name in (
                    tensor.coo_sparse.values_tensor_name,
                    tensor.coo_sparse.indices_tensor_name,
                    tensor.coo_sparse.dense_shape_tensor_name,
                ):
                    yield _node_of(part_name)
    for name in ("saved_model_main_op", "legacy_init_op", "saved_model_init_op"):
        if name in meta.collection_def:
            yield from (_node_of(item) for item in meta.collection_def[name].node_list.value)


def _callees(node: Any) -> Iterable[str]:
    yield node.op
    for value in node.attr.values():
        kind = value.WhichOneof("value")
        if kind == "func":
            yield value.func.name
        elif kind == "list":
            yield from (function.name for function in value.list.func)


def _node_of(tensor: str) -> str:
    """`^name`, `name` or `name:0` -> `name`."""
    return tensor.lstrip("^").partition(":")[0]
