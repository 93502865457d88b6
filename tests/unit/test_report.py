"""Pages: every figure is the document's, nothing is loaded, names stay text, and a browser shows it without a word."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from chromium import CHROMIUM, Browser

from edgekit import cli, report
from edgekit.converters.verification.thinned import LIMIT, Thinner
from edgekit.errors import EngineMissingError

HOSTILE = "</pre></script><img src=x onerror=alert(1)>$x_1$"


def bench(name="m.tflite"):
    times = (0.05 + 0.01 * np.random.default_rng(0).random(400)).tolist()
    latency = {"min": 0.05, "p50": 0.055, "p90": 0.059, "p95": 0.0595, "p99": 0.0599, "max": 0.2, "mean": 0.0551}
    return {
        "latency_ms": latency, "load_ms": 3.25, "first_ms": 0.4, "rss_mb": 51.31, "runs": 400, "threads": 1,
        "engine": "litert 2.3.0", "target": "local", "valid": False, "notes": [f"busy: {name}"],
        "environment": {"cpu": name, "cores": 2, "features": ["avx2"], "governor": None, "throttle": {"after": {}}},
        "intervals_ms": {"p50": {"low": 0.054, "high": 0.056}, "p99": {"low": 0.0598}},
        "scenario": {"name": "single-stream", "metric": {"name": "90th percentile", "value": 0.0591, "unit": "ms"},
                     "queries": 400, "samples_per_query": 1},
        "artifact": {"path": f"/x/{name}", "sha256": "0", "bytes": 9},
        "series": [{"at_s": n / 10, "p50_ms": 0.055, "times_ms": times[40 * n : 40 * n + 40]} for n in range(10)],
    }  # fmt: skip


def profile(name="conv"):
    ops = [
        {"index": n, "name": f"{name}{n}", "type": "CONV_2D", "delegate": "XNNPACK", "ms": 0.01 * (n + 1), "share": 0.1,
         "macs": 1000 * (n + 1), "bytes": 500, "intensity": 2.0 * (n + 1)}
        for n in range(5)
    ]  # fmt: skip
    groups = [{"name": name, "count": 5, "ms": 0.15, "share": 1.0}]
    return {
        "file": f"/x/{name}.tflite", "engine": "litert", "target": "local", "wall_ms": 0.153, "ops_ms": 0.15,
        "coverage": 0.98,
        "ops": ops, "types": groups, "delegates": groups, "runs": 100, "overhead": 1.19, "valid": True, "notes": [],
    }  # fmt: skip


def convert(name="m.tflite"):
    values = np.random.default_rng(1).random(300).tolist()
    limits = [{"resource": "memory", "required": 40.1, "available": 2611, "unit": "MiB", "ok": True},
              {"resource": "engine", "required": "litert", "available": name, "unit": "", "ok": True}]  # fmt: skip
    return {
        "artifact": {"path": f"/x/{name}", "format": "tflite", "precision": "int8", "bytes": 90258, "sha256": "ab"},
        "source": {"framework": "keras", "sha256": "cd", "path": name, "bytes": 318144},
        "verification": {"samples": 900, "data": "evaluation", "max_abs_error": 0.2588, "sqnr_db": 21.87,
                         "agreement": 0.9667,
                         "metric": {"name": "top1", "source": 75.2222, "artifact": 75.5556, "drop": -0.3333}},
        "float_ops": [name], "stages": [{"name": "load", "seconds": 0.4}, {"name": "verify", "seconds": 1.1}],
        "warnings": [name], "device": {"name": "raspberry-pi-4b", "fits": True, "limits": limits},
        "outputs": {"name": name, "source": values, "artifact": [value + 0.01 for value in values]},
    }  # fmt: skip


def check(name="m.tflite"):
    limits = [{"resource": "memory", "required": 57.35, "available": 2611, "unit": "MiB", "ok": True, "why": name,
               "source": "policy"},
              {"resource": "latency", "required": 47.0, "available": 40.0, "unit": "ms", "ok": False, "why": name,
               "source": name}]  # fmt: skip
    ops = [{"name": f"{name}{n}", "kind": "CONV_2D", "precision": "int8", "ms": 0.1 * (n + 1), "share": 0.1,
            "limit": ("arithmetic", "memory", "overhead")[n % 3], "macs": 9.0, "bytes": 1.0}
           for n in range(6)]  # fmt: skip
    memory = [{"what": "process", "mib": 44.6, "when": "import", "why": "Python"},
              {"what": "file", "mib": 3.76, "when": "load", "why": name}]  # fmt: skip
    moments = [{"name": f"{name}{n}", "kind": "CONV_2D", "bytes": 1000 * (6 - abs(3 - n))} for n in range(6)]
    tensors = [
        {"name": f"{name}{n}", "bytes": 900, "first": n, "last": n + 1, "offset": 960 * (n % 3)} for n in range(6)
    ]
    return {
        "file": f"/x/{name}", "device": "raspberry-pi-4b", "fits": False, "limits": limits, "advice": [name],
        "memory_mb": {"estimate": 57.35, "load": 57.11, "run": 57.35, "at_least": False, "basis": name, "parts": []},
        "latency_ms": {"estimate": 47.05, "low": 43.02, "high": 51.6, "basis": name},
        "choices": [{"precision": "int8", "engine": "litert", "threads": n, "latency_ms": 47.0 / n, "gain": float(n)}
                    for n in (4, 2, 1)],
        "explain": {"engine": "litert", "threads": 1, "ops": ops, "memory": memory,
                    "timeline": {"moments": moments, "peak": 3, "planned": 2880, "tensors": tensors}},
    }  # fmt: skip


def debug(name="conv"):
    counts = np.random.default_rng(2).integers(0, 900, (2, 96)).tolist()
    layers = [
        {"name": f"{name}{n}/Relu", "source_layer": f"{name}{n}" if n else None, "op": "CONV_2D", "number": n,
         "reason": f"channel {n}", "remedy": "--precision int16x8", "contribution": 0.4 / (n + 1), "output_error": 0.01,
         "sqnr_db": 30.0 - n, "cosine": 0.99, "kl": 0.02, "max_abs_error": 0.25, "shift": 0.0,
         "isolated_sqnr_db": None if n == 3 else 35.0, "isolated_cosine": 0.999, "own_sqnr_db": 36.0,
         "saturation": 0.001, "range": [-1.5, 6.25], "dtype": "int8", "scale": 0.03, "zero_point": -3,
         "reasons": [{"code": "outlier-channel", "text": f"{name} {n}", "options": ["--precision int16x8"]}],
         "histogram": {"low": -2.0, "high": 7.0, "reference": counts[0], "artifact": counts[1]},
         "weights": {"peaks": [0.1, 0.2, 3.5, 0.1], "scales": [0.01]}}
        for n in range(6)
    ]  # fmt: skip
    tensor = {"name": name, "shape": [1, 4], "min": -1.0, "max": 2.0, "mean": 0.5, "std": 0.1, "zeros": 0.0,
              "not_finite": 0}  # fmt: skip
    return {
        "artifact": {"path": f"/x/{name}.tflite", "format": "tflite", "precision": "int8"},
        "source": {"framework": "keras", "path": name, "sha256": "ab"}, "samples": 32, "layers": layers,
        "unpaired": [f"ADD ({name})"], "diverging": [], "notes": [name], "stages": [{"name": "load", "seconds": 0.4}],
        "outputs": [{"name": name, "sqnr_db": 21.5, "lowered_sqnr_db": None, "relative_error": 0.1,
                     "lowered_relative_error": 0.0}],
        "divergence": {"layer": name, "source_layer": name, "op": "ADD", "relative_error": 0.3, "tolerance": 1e-4,
                       "sample": 3, "at": [0, 1], "expected": 1.0, "found": 2.0, "reference": tensor,
                       "artifact": tensor},
    }  # fmt: skip


def drift(name="kitchen"):
    told = {"at": 1.79e9, "samples": 4096, "alarms": [{"kind": "stuck", "where": name, "message": name, "since": 3}],
            "over": 2048, "accuracy": {"estimate": 0.9, "low": 0.8, "high": 0.95}, "moved": {name: -1.25},
            "seconds": {}}  # fmt: skip
    boards = [
        {"store": f"{n:016x}", "called": f"ssh://pi@{name}-{n}".replace("//", ""), "host": name, "seen": 900 + n,
         "kept": {"random": 9}, "captures": 12, "first": 1.79e9, "last": 1.7901e9, "versions": ["ab" * 32],
         "classes": {name: 700, "other": 200 + n},
         "series": [{"at": 1.79e9 + 900 * t, "seen": 30, "until": 30 * t, "ood": 0.1 * t * n + 0.1,
                     "uncertainty": None if t == 2 else 0.2, "classes": {}, "version": "ab" * 32,
                     "monitor": told if n and t > 5 else None} for t in range(30)],
         "monitor": told if n else None,
         "alarms": [{"board": name, "at": 1.79e9 + 4000, "kind": "input-shift", "message": f"{name} moved"}] * n}
        for n in range(3)
    ]  # fmt: skip
    alarms = [alarm for board in boards for alarm in board["alarms"]]
    return {
        "name": name, "datasets": [f"/x/{name}"], "boards": boards, "alarms": alarms, "seen": 2703, "samples": 36,
        "labelled": 20,
        "strata": [{"stratum": "random", "samples": 20, "labelled": 10, "wrong": 0.1},
                   {"stratum": "uncertain", "samples": 16, "labelled": 0, "wrong": None}],
        "accuracy": {"estimate": 0.91, "low": 0.85, "high": 0.97, "labelled": 20, "effective": 15.5},
        "damaged": 0,
    }  # fmt: skip


MAKERS = {"bench": bench, "check": check, "profile": profile, "convert": convert, "debug": debug, "drift": drift}


class Reader(HTMLParser):
    """What a page holds: tags with attributes, and the figures by field."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.figures, self.raw = [], {}, ""
        self._in = None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append((tag, given))
        if tag == "data":
            self._in = given["data-field"]
            self.figures[self._in] = [given["value"], ""]
        if given.get("id") == "document":
            self._in = "document"

    def handle_endtag(self, tag):
        if tag in ("data", "pre"):
            self._in = None

    def handle_data(self, data):
        if self._in == "document":
            self.raw += data
        elif self._in:
            self.figures[self._in][1] += data


@pytest.mark.parametrize("kind", MAKERS)
def test_every_figure_is_the_documents(kind):
    document = MAKERS[kind]()
    page = Reader(report.render(document, kind))
    assert json.loads(page.raw) == document
    assert len(page.figures) >= 4
    for field, (value, shown) in page.figures.items():
        wanted = document
        for part in field.split("."):
            wanted = wanted[part]
        assert json.loads(value) == wanted
        if isinstance(wanted, float):
            assert float(re.match(r"-?[\d.,e-]+", shown)[0].replace(",", "")) == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize("kind", MAKERS)
def test_nothing_is_loaded_and_nothing_runs(kind):
    text = report.render(MAKERS[kind](), kind)
    page = Reader(text)
    assert not re.search(r"https?:|//[a-z]", text)
    assert not {"script", "img", "link", "iframe", "object", "foreignobject"} & {tag for tag, _ in page.tags}
    assert all(
        value.startswith("#") for _, given in page.tags for key, value in given.items() if key in ("href", "src")
    )
    assert not [key for _, given in page.tags for key in given if key.startswith("on")]
    (policy,) = (given["content"] for tag, given in page.tags if given.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    assert text.count("<svg") >= 2


@pytest.mark.parametrize("kind", MAKERS)
def test_names_stay_text(kind):
    page = Reader(report.render(MAKERS[kind](HOSTILE), kind))
    assert not {"img", "script"} & {tag for tag, _ in page.tags}
    assert json.loads(page.raw) == MAKERS[kind](HOSTILE)


@pytest.mark.parametrize("kind", MAKERS)
def test_the_same_bytes_again_and_ids_of_their_own(kind):
    text = report.render(MAKERS[kind](), kind)
    assert text == report.render(MAKERS[kind](), kind)
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    missing = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text)) - set(ids)
    assert not missing


@pytest.mark.parametrize("kind", MAKERS)
def test_colors_are_the_pages(kind):
    drawings = "".join(re.findall(r"<svg.*?</svg>", report.render(MAKERS[kind](), kind), re.DOTALL))
    assert "var(--ink)" in drawings
    assert "var(--one)" in drawings
    assert not re.findall(r"#0[1-7]0[1-7]0[1-7]", drawings)


def test_what_is_absent_is_not_drawn():
    bare = bench()
    del bare["series"], bare["scenario"]
    assert "Distribution" not in report.render(bare, "bench")
    small = convert()
    del small["device"], small["outputs"], small["verification"]["metric"]
    page = report.render(small, "convert")
    assert "Device" not in page
    assert "Accuracy" not in page


def test_without_matplotlib(monkeypatch, tmp_path):
    import sys

    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(EngineMissingError) as caught:
        report.write(bench(), "bench", tmp_path / "page.html")
    assert caught.value.code == "report-missing"
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("counts", [[10], [LIMIT], [LIMIT + 1], [300] * 50, [1] * 5000])
def test_values_are_thinned_evenly(counts):
    thinner = Thinner()
    start = 0
    for count in counts:
        values = np.arange(start, start + count, dtype=np.float64)
        thinner.add(values.reshape(1, -1), values.reshape(1, -1) + 0.5)
        start += count
    found = thinner.finish("y")
    assert min(start, LIMIT // 2) <= len(found.source) <= LIMIT
    steps = np.diff(found.source)
    assert steps.max() <= 3 * max(1, steps.min())
    np.testing.assert_allclose(np.array(found.artifact) - found.source, 0.5)


def test_values_that_are_no_numbers_are_left_out():
    thinner = Thinner()
    thinner.add(np.array([1.0, np.nan, 3.0]), np.array([1.0, 2.0, np.inf]))
    assert thinner.finish("y").source == (1.0,)


# -- In a browser ----------------------------------------------------------------------------------------------

LOOK = """
(() => {
  const svgs = [...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect());
  const marks = [...document.querySelectorAll('svg path, svg use')].length;
  return JSON.stringify({
    plots: svgs.length, hidden: svgs.filter(r => r.width < 200 || r.height < 40).length, marks: marks,
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    ink: getComputedStyle(document.body).color, page: getComputedStyle(document.body).backgroundColor,
    stroke: getComputedStyle(document.querySelector('svg text')).fill,
  });
})()
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    opened = Browser(tmp_path_factory.mktemp("browser"))
    yield opened
    opened.close()


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_a_browser_shows_it(browser, tmp_path, kind, scheme, width):
    path = tmp_path / "page.html"
    report.write(
        MAKERS[kind]("a_rather_long_name_of_a_layer/with/scopes/and_more_of_them_to_come_at_the_end"), kind, path
    )
    seen = browser.open(path.as_uri(), width, scheme, LOOK)
    assert browser.complaints() == ([], [])
    assert seen["plots"] >= 2
    assert seen["hidden"] == 0
    assert seen["marks"] > 20
    assert seen["wide"] <= 0, "it must not scroll sideways"
    dark = sum(int(n) for n in re.findall(r"\d+", seen["page"])[:3]) < 200
    assert dark == (scheme == "dark")
    assert seen["stroke"] != seen["page"]


LINES = """
(() => JSON.stringify([...document.querySelectorAll("th")].map(cell => {
  const range = document.createRange();
  range.selectNodeContents(cell);
  return new Set([...range.getClientRects()].map(one => one.top)).size;
})))()
"""


def test_words_in_tables_stay_whole_on_a_phone(browser, tmp_path, capsys):
    from edgekit.micro import nets, tflite

    model, path = tmp_path / "net.tflite", tmp_path / "page.html"
    model.write_bytes(tflite.model(nets.Net("net", (8, 8, 4), (nets.Layer("conv", 8, 3),)), "int8"))
    assert cli.run(["check", str(model), "--device", "raspberry-pi-zero-2w", "--report", str(path)]) == 0
    capsys.readouterr()
    assert set(browser.open(path.as_uri(), 360, "light", LINES)) <= {0, 1}


def test_the_commands_write_pages(tmp_path, capsys):
    from edgekit.converters.tflite_graphs.builder import Builder

    net = Builder()
    x = net.input("x", (1, 8))
    weights, bias = net.constant("w", np.eye(8, dtype=np.float32)), net.constant("b", np.zeros(8, np.float32))
    y = net.op("FULLY_CONNECTED", [x, weights, bias], (1, 8), "y", "FullyConnectedOptions")
    source, made = tmp_path / "source.tflite", tmp_path / "made.tflite"
    source.write_bytes(net.finish([y]))
    pages = {kind: tmp_path / f"{kind}.html" for kind in MAKERS}
    calls = {
        "convert": ["convert", str(source), "-o", str(made)],
        "bench": ["bench", str(made), "--seconds", "0.2"],
        "profile": ["profile", str(made), "--seconds", "0.2"],
        "debug": ["debug", str(made), "--against", str(source), "--data", str(tmp_path / "data.npz")],
    }
    np.savez(tmp_path / "data.npz", x=np.eye(8, dtype=np.float32))
    for kind, call in calls.items():
        assert cli.run([*call, "--report", str(pages[kind]), "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        shown = json.loads(Reader(pages[kind].read_text()).raw)
        assert {key: shown[key] for key in said} == said, "the page shows the very document"
        assert pages[kind].stat().st_size < 600_000
    assert len(json.loads(Reader(pages["convert"].read_text()).raw)["outputs"]["source"]) > 8


def test_a_check_without_sizes_or_predictions_has_a_page():
    document = check()
    document["explain"] = {**document["explain"], "ops": [], "memory": [], "timeline": None}
    document["choices"], document["latency_ms"]["estimate"] = [], None
    page = report.render(document, "check")
    assert "some sizes are free" in page
    assert page.count("<svg") == 1
