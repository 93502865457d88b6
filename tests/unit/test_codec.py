"""The codec: dataclasses <-> JSON by type hints, and messages that name the field."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.codec import CodecError, decode, encode, finite
from edgekit.tensors import DTYPES, QuantParams, TensorSpec


@dataclass(frozen=True)
class Inner:
    name: str
    sizes: tuple[int | None, ...] = ()


@dataclass(frozen=True)
class Outer:
    kind: Literal["a", "b"]
    inner: Inner
    pair: tuple[float, str]
    many: tuple[Inner, ...] = ()
    table: dict[str, float] = field(default_factory=dict)
    items: list[int] = field(default_factory=list)
    flag: bool = False
    free: Any = None
    maybe: int | None = None
    either: int | str = 0

    def __post_init__(self) -> None:
        if self.items and min(self.items) < 0:
            raise ValueError("items may not be negative")


PLAIN: dict[str, Any] = {"kind": "a", "inner": {"name": "x"}, "pair": [1, "two"]}

inners = st.builds(Inner, st.text(max_size=5), st.tuples(st.none() | st.integers(), st.none() | st.integers()))
outers = st.builds(
    Outer,
    kind=st.sampled_from(["a", "b"]),
    inner=inners,
    pair=st.tuples(st.floats(allow_nan=False), st.text(max_size=5)),
    many=st.lists(inners, max_size=3).map(tuple),
    table=st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False), max_size=3),
    items=st.lists(st.integers(min_value=0), max_size=3),
    flag=st.booleans(),
    free=st.none() | st.integers() | st.lists(st.text(max_size=3), max_size=2),
    maybe=st.none() | st.integers(),
    either=st.integers() | st.text(max_size=3),
)


@given(outers)
def test_every_value_survives_json(value):
    assert decode(Outer, json.loads(json.dumps(encode(value))), strict=True) == value


@given(
    st.builds(
        TensorSpec,
        name=st.text(min_size=1, max_size=8),
        shape=st.lists(st.none() | st.integers(0, 1 << 40), max_size=5).map(tuple),
        dtype=st.sampled_from(DTYPES),
        quant=st.none()
        | st.builds(QuantParams, st.tuples(st.floats(1e-30, 1e30)), st.tuples(st.integers(-128, 127)))
        | st.just(QuantParams((0.5, 0.25), (0, 3), axis=1)),
        tensor=st.none() | st.text(min_size=1, max_size=8),
    )
)
def test_tensor_specs_survive_json(spec):
    assert decode(TensorSpec, json.loads(json.dumps(encode(spec)))) == spec


keys = st.sampled_from([*PLAIN, "many", "table", "items", "name", "sizes"])
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@given(documents)
def test_any_json_gives_a_value_or_a_codec_error(data):
    try:
        assert isinstance(decode(Outer, data), Outer)
    except CodecError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "c"}, "kind: 'c' is none of 'a', 'b'"),
        ({"inner": {"name": 1}}, "inner.name: expected str, got int"),
        ({"inner": {}}, "inner.name: missing"),
        ({"inner": []}, "inner: expected a table, got list"),
        ({"pair": [1]}, "pair: expected 2 items, got 1"),
        ({"pair": 1}, "pair: expected a list, got int"),
        ({"many": [{"name": "x"}, {"name": "y", "sizes": [1, "2"]}]}, "many[1].sizes[1]: expected int, got str"),
        ({"table": {"x": "1"}}, "table.x: expected float, got str"),
        ({"flag": 1}, "flag: expected bool, got int"),
        ({"items": [True]}, "items[0]: expected int, got bool"),
        ({"maybe": "1"}, "maybe: expected int, got str"),
        ({"either": 1.5}, "either: expected int, got float; either: expected str, got float"),
        ({"items": [-1]}, "Outer: items may not be negative"),
    ],
)
def test_messages_start_with_the_path(change, message):
    with pytest.raises(CodecError) as caught:
        decode(Outer, {**PLAIN, **change})
    assert str(caught.value) == message


def test_unknown_fields_are_ignored_unless_strict():
    data = {**PLAIN, "later": 1, "inner": {"name": "x", "newer": 2}}
    assert decode(Outer, data) == decode(Outer, PLAIN)
    with pytest.raises(CodecError, match="unknown field later; known: kind, inner"):
        decode(Outer, data, strict=True)


def test_none_fields_are_left_out_and_whole_numbers_stand_for_floats():
    value = decode(Outer, PLAIN)
    assert value.pair == (1.0, "two")
    assert isinstance(value.pair[0], float)
    assert "maybe" not in encode(value)
    assert encode(Inner("x", (None, 2))) == {"name": "x", "sizes": [None, 2]}


def test_numbers_that_json_lacks_are_none():
    data = {"a": [1.5, float("nan"), (float("inf"), -float("inf"))], "b": {"c": "text", "d": 1, "e": None}}
    assert finite(data) == {"a": [1.5, None, [None, None]], "b": {"c": "text", "d": 1, "e": None}}
