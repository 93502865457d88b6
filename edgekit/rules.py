"""Rules of mixed precision: which layers of a quantized model compute in another precision. Data, in order; later wins.

    [[rule]]
    scope = "block_3/*"          # a glob for layers or tensors; "re:" searches a regular expression in their names;
                                 # "tensor:" means the one operator that makes the tensor of that very name
    op = "DEPTHWISE_CONV_2D"     # a glob for the kind of operator; left out: any
    precision = "int16x8"        # int8, int16x8, fp16 (float, weights stored as half) or float

Here they are read; `edgekit.converters.rules` says which layers they mean.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from edgekit.codec import CodecError, decode
from edgekit.errors import MissingFileError, UsageError

LayerPrecision = Literal["int8", "int16x8", "fp16", "float"]
LAYER_PRECISIONS: tuple[LayerPrecision, ...] = get_args(LayerPrecision)

_PATTERN, _TENSOR = "re:", "tensor:"


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        precision: What the layers compute in.
        scope: A glob for names of layers or tensors; "re:" and a regular expression that is searched in them; or
            "tensor:" and the very name of a tensor.
        op: A glob for kinds of operators, as the format spells them; case and underscores do not count.
    """

    precision: LayerPrecision
    scope: str = "*"
    op: str = "*"

    def __post_init__(self) -> None:
        if not self.scope or not self.op:
            raise ValueError('scope and op must not be empty; "*" means any')
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                raise ValueError(f"{self.scope!r} is no regular expression: {error}") from error

    @property
    def pattern(self) -> str | None:
        """The regular expression, where the scope is one."""
        return self.scope.removeprefix(_PATTERN) if self.scope.startswith(_PATTERN) else None

    @property
    def tensor(self) -> str | None:
        """The tensor's name, where the scope is one."""
        return self.scope.removeprefix(_TENSOR) if self.scope.startswith(_TENSOR) else None

    def __str__(self) -> str:
        kind = "" if self.op == "*" else f", op {self.op}"
        return f"scope {self.scope}{kind} to {self.precision}"


def maker_of(tensor: str, precision: LayerPrecision) -> Rule:
    """The rule for the one operator that makes a tensor."""
    return Rule(precision, f"{_TENSOR}{tensor}")


@dataclass(frozen=True)
class _Document:
    rule: tuple[Rule, ...] = ()


def read(given: str | Path | Iterable[Rule | Mapping[str, Any]] | None) -> tuple[Rule, ...]:
    """Rules of a TOML file, or of Python values.

    Args:
        given: Path of a TOML of `[[rule]]` tables; or rules, or such tables; None for no rules.

    Raises:
        MissingFileError: `file-missing`.
        UsageError: `rules-invalid`: names the field.
    """
    if given is None:
        return ()
    try:
        if isinstance(given, (str, Path)):
            if not Path(given).is_file():
                raise MissingFileError("file-missing", f"there is no file {given}")
            return decode(_Document, tomllib.loads(Path(given).read_text(encoding="utf-8-sig")), strict=True).rule
        return tuple(one if isinstance(one, Rule) else decode(Rule, one, strict=True, where="rule") for one in given)
    except (CodecError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError("rules-invalid", f"the rules are invalid: {error}") from error


def write(rules: Iterable[Rule], comment: str = "") -> str:
    """The TOML text that `read` takes."""
    lines = [f"# {line}" for line in comment.splitlines()]
    for rule in rules:
        lines += ["", "[[rule]]", f"scope = {_quoted(rule.scope)}"]
        lines += [f"op = {_quoted(rule.op)}"] if rule.op != "*" else []
        lines += [f'precision = "{rule.precision}"']
    return "\n".join(lines).lstrip("\n") + "\n"


def _quoted(text: str) -> str:
    escaped = "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text)
    return f'"{escaped}"'
