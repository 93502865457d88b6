"""Normalizations in floats: found in every spelling, alone, and worth it where rows differ in size."""

from __future__ import annotations

import numpy as np
import pytest
from generators import result

from edgekit.converters import jobs, mixed, quantizers
from edgekit.converters.calibrate import calibrate
from edgekit.converters.repairs import mend
from edgekit.converters.repairs.mend import Wanted
from edgekit.converters.repairs.samples import Samples, answers
from edgekit.converters.sources import identify, lowering_for
from edgekit.converters.stages import CalibrationOptions, QuantizeOptions
from edgekit.precision import precisions

onnx = pytest.importorskip("onnx")

OBSERVING = CalibrationOptions(observer="minmax")
WIDTH = 16

# What each spelling makes of "h", an operator a line: kind, what it reads, what it makes.
SPELLINGS = {
    "layer": """
        ReduceMean h axes > mean
        Sub h mean > centered
        Pow centered two > squares
        ReduceMean squares axes > variance
        Add variance tiny > held
        Sqrt held > root
        Div centered root > normal
        Mul normal gain > gained
        Add gained offset > n""",
    "keras": """
        ReduceMean h axes > mean
        Sub h mean > centered
        Mul centered centered > squares
        ReduceMean squares axes > variance
        Add variance tiny > held
        Sqrt held > root
        Reciprocal root > inverse
        Mul inverse gain > factor
        Mul h factor > scaled
        Neg mean > less
        Mul less factor > shift
        Add offset shift > lifted
        Add scaled lifted > n""",
    "rms": """
        Mul h h > squares
        ReduceMean squares axes > power
        Add power tiny > held
        Sqrt held > root
        Div h root > normal
        Mul normal gain > n""",
    "moments": """
        ReduceMean h axes > mean
        Mul h h > squares
        ReduceMean squares axes > power
        Mul mean mean > meansquare
        Sub power meansquare > variance
        Max variance tiny > held
        Sqrt held > root
        Sub h mean > centered
        Div centered root > n""",
    "length": """
        ReduceSumSquare h axes > power
        Sqrt power > length
        Max length tiny > held
        Div h held > n""",
}
NO_NORMS = {
    "root of a layer": """
        Abs h > size
        Sqrt size > n""",
    "root of a mean": """
        Abs h > size
        ReduceMean size axes > mean
        Sqrt mean > root
        Div h root > n""",
}


@pytest.fixture
def lowered(tmp_path):
    """Spelling and format -> a float graph: a dense layer, what is spelled, a transposition, and a dense layer."""

    def get(spelled, kind):
        helper, constant = onnx.helper, onnx.numpy_helper.from_array
        random = np.random.default_rng(8)
        nodes = [helper.make_node("MatMul", ["x", "w"], ["h"])]
        for line in spelled.strip().splitlines():
            (op, *read), made = line.split(">")[0].split(), line.split(">")[1].strip()
            nodes.append(helper.make_node(op, read, [made]))
            if op.startswith("Reduce"):
                nodes[-1].attribute.append(helper.make_attribute("keepdims", 1))
        nodes += [
            helper.make_node("Transpose", ["n"], ["turned"], perm=[0, 2, 1]),
            helper.make_node("Transpose", ["turned"], ["back"], perm=[0, 2, 1]),
            helper.make_node("MatMul", ["n", "v"], ["m"]),
            helper.make_node("Sigmoid", ["back"], ["gate"]),
            helper.make_node("Concat", ["m", "gate"], ["y"], axis=2),
        ]
        values = {
            "w": random.normal(size=(WIDTH, WIDTH)), "v": random.normal(size=(WIDTH, WIDTH)) / 4, "two": 2.0,
            "tiny": 1e-6, "gain": random.uniform(0.5, 1.5, WIDTH), "offset": random.normal(size=WIDTH) / 9,
        }  # fmt: skip
        graph = helper.make_graph(
            nodes, "rows",
            [helper.make_tensor_value_info("x", 1, ["N", 12, WIDTH])],
            [helper.make_tensor_value_info("y", 1, ["N", 12, 2 * WIDTH])],
            [*(constant(np.array(one, np.float32), name) for name, one in values.items()),
             constant(np.array([-1], np.int64), "axes")],
        )  # fmt: skip
        path = tmp_path / "rows.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
        source = identify(path, signature=None, shapes={}, trusted=False, dtypes={}, model=None)
        jobs.load(source)
        return jobs.lower(jobs.LowerRequest(lowering_for(source.kind, kind), str(tmp_path / f"rows.{kind}")))

    return get


def mended(graph, data, tmp_path, precision="int8"):
    (tmp_path / "repairs").mkdir(exist_ok=True)
    return result(
        mend.mend(
            graph, iter([{"x": data}]), Wanted(("float-norms",)), precision=precisions.get(precision),
            quantizing=QuantizeOptions(), observing=OBSERVING, folder=tmp_path / "repairs",
        )
    )  # fmt: skip


def quantized(graph, data, path, rules):
    ranges = result(calibrate(graph, iter([{"x": data}]), OBSERVING))
    options = QuantizeOptions(rules=rules, allow_float_ops=True)
    return quantizers.get(graph.format).quantize(graph, ranges, precisions.get("int8"), options, path)


def rows(count=24):
    """[count, 12, WIDTH], each row of another size, sixteen times apart."""
    random = np.random.default_rng(9)
    sizes = 10.0 ** random.uniform(-0.6, 0.6, (count, 12, 1))
    return (sizes * random.normal(size=(count, 12, WIDTH))).astype(np.float32)


def noise(graph, found, data):
    wanted, answered = (
        np.concatenate([one["y"] for one in answers(which, Samples([{"x": data}], len(data)), 1)])
        for which in (graph, found)
    )
    return 10 * np.log10(np.square(wanted).mean() / np.square(wanted - answered).mean())


@pytest.mark.parametrize(
    ("spelling", "kind"),
    # One operator in ONNX, whose inside onnxruntime computes in floats anyway.
    [(name, kind) for name in SPELLINGS for kind in ("tflite", "onnx") if (name, kind) != ("layer", "onnx")],
)
def test_norms_of_every_spelling_are_lifted_whole_and_alone(lowered, tmp_path, spelling, kind):
    graph, data = lowered(SPELLINGS[spelling], kind), rows()
    made = mended(graph, data, tmp_path)
    (report,) = made.reports
    assert (report.name, report.changed, report.kept) == ("float-norms", 1, True)
    assert report.detail in made.notes
    assert made.graph.path == graph.path
    whole = quantized(graph, data, tmp_path / f"whole.{kind}", made.rules)
    kinds = {one.split(" ")[0].upper().replace("_", "") for one in whole.lifted}
    assert kinds
    assert not kinds & {"MATMUL", "FULLYCONNECTED", "TRANSPOSE", "CONCAT", "CONCATENATION"}
    # Nothing between the first and the last operator of the norm goes through integers.
    assert len(whole.lifted) == len(made.rules)
    assert noise(graph, whole, data) > 20
    if (spelling, kind) != ("keras", "tflite"):  # where a root that was rounded to zero stops the engine
        plain = quantized(graph, data, tmp_path / f"plain.{kind}", ())
        assert noise(graph, whole, data) > noise(graph, plain, data) + 2


@pytest.mark.parametrize("kind", ["tflite", "onnx"])
@pytest.mark.parametrize("spelling", NO_NORMS)
def test_other_roots_stay_integers(lowered, tmp_path, spelling, kind):
    graph = lowered(NO_NORMS[spelling], kind)
    made = mended(graph, rows(), tmp_path)
    assert (made.reports, made.rules, made.notes) == ((), (), ())


def test_sixteen_bits_hold_them(lowered, tmp_path):
    graph = lowered(SPELLINGS["layer"], "tflite")
    assert mended(graph, rows(), tmp_path, "int16x8").rules == ()


def test_a_search_for_layers_to_lift_leaves_them_out(lowered, tmp_path):
    graph, data = lowered(SPELLINGS["layer"], "tflite"), rows()
    rules = mended(graph, data, tmp_path).rules
    ranges = result(calibrate(graph, iter([{"x": data}]), OBSERVING))
    known = mixed.layers(graph)
    less = {layer.made[0] for layer in mixed.candidates(known, ranges)} - {
        layer.made[0] for layer in mixed.candidates(known, ranges, rules)
    }
    assert less == {rule.tensor for rule in rules}
