"""The page at `/`: what it shows of a server at work, in a real browser, and what it may load."""

from __future__ import annotations

import json

import pytest
from chromium import CHROMIUM, Browser

from edgekit.runtimes.flow.metrics import BOUNDS, Metrics, gauge
from edgekit.serve import status

KEY = "0123456789abcdef0123456789abcdef"
SHOWN = """
new Promise(done => {
  const look = () => {
    const cards = [...document.querySelectorAll('main section')], first = cards[0];
    const rate = first && first.querySelector('dd.rate').textContent;
    if (!first || rate === '-') return setTimeout(look, 50);
    done(JSON.stringify({
      names: cards.map(card => card.querySelector('h2').textContent),
      states: cards.map(card => card.querySelector('.state').textContent),
      engine: first.querySelector('.engine').textContent,
      wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
      page: getComputedStyle(document.body).backgroundColor,
    }));
  };
  look();
})
"""
ASKED = """
new Promise(done => {
  document.getElementById('model').value = 'many';
  document.getElementById('model').dispatchEvent(new Event('change'));
  document.querySelector('#ask button').click();
  const look = () => {
    const text = document.getElementById('answer').textContent;
    if (!text) return setTimeout(look, 20);
    done(JSON.stringify({took: document.getElementById('took').textContent, answer: JSON.parse(text)}));
  };
  look();
})
"""
LOCKED = """
new Promise(done => {
  const look = () => document.getElementById('locked').hidden ? setTimeout(look, 20) : done('true');
  look();
})
"""
UNLOCK = f"""
document.getElementById('key').value = '{KEY}';
document.querySelector('#unlock button').click();
new Promise(done => {{
  const look = () => document.querySelector('main section') ? done('true') : setTimeout(look, 20);
  look();
}})
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    opened = Browser(tmp_path_factory.mktemp("browser"))
    yield opened
    opened.close()


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
def test_a_browser_shows_models_and_asks_them(browser, server, width, scheme):
    address = f"http://127.0.0.1:{server.port}/"
    seen = browser.open(address, width, scheme, SHOWN)
    assert seen["names"] == ["int8", "many"]
    assert seen["states"] == ["ready", "ready"]
    assert seen["engine"].startswith("litert ")
    assert seen["wide"] <= 0, "it must not scroll sideways"
    dark = sum(int(number) for number in seen["page"][4:-1].split(",")) < 200
    assert dark == (scheme == "dark")
    asked = browser.look(ASKED)
    assert asked["took"].startswith("200, ")
    assert asked["answer"]["model_name"] == "many"
    assert browser.complaints(address, "data:,") == ([], [])


def test_with_a_key_the_page_asks_for_it(browser, serve, served, tmp_path):
    (tmp_path / "keys").write_text(f"{KEY}\n")
    server = serve(served / "many.onnx", "--api-key-file", tmp_path / "keys")
    assert server.ask("GET", "/")[0] == 200
    assert server.ask("GET", "/status")[0] == 401
    assert server.ask("GET", "/status", headers={"X-API-Key": KEY})[0] == 200
    browser.open(f"http://127.0.0.1:{server.port}/", 360, "light", LOCKED)
    assert browser.look(UNLOCK) is True


def test_the_page_loads_nothing_from_elsewhere(server):
    status, headers, page = server.ask("GET", "/")
    assert status == 200
    assert headers["content-security-policy"].startswith("default-src 'none';")
    assert b"http:" not in page
    assert b"https:" not in page
    assert b"innerHTML" not in page, "names of models and messages are text, never markup"


def test_status_tells_the_work_so_far(server, tensor, image):
    before = server.json("GET", "/status")[1]["models"][1]
    for _ in range(3):
        assert server.json("POST", "/v2/models/many/infer", {"inputs": [tensor(image())]})[0] == 200
    status, told = server.json("GET", "/status")
    assert status == 200
    model = told["models"][1]
    assert (model["name"], model["ready"], model["trial"]) == ("many", True, False)
    assert model["requests"]["answered"] - before["requests"].get("answered", 0) == 3
    for name in ("request_seconds", "run_seconds"):
        assert len(model["times"][name]) == len(told["bounds_seconds"]) + 1 == len(BOUNDS) + 1
        assert sum(model["times"][name]) - sum(before["times"][name]) == 3
    assert model["errors"] == []


def test_a_hot_board_says_so(tmp_path):
    zone = tmp_path / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("81250\n")
    (zone / "type").write_text("cpu-thermal\n")
    firmware = tmp_path / "sys/devices/platform/soc/soc:firmware"
    firmware.mkdir(parents=True)
    (firmware / "get_throttled").write_text("50005\n")
    board = status.board(tmp_path)
    assert (board["temperature_c"], board["throttled"], board["under_voltage"]) == (81.25, True, True)
    nothing = status.board(tmp_path / "none")
    assert (nothing["temperature_c"], nothing["throttled"]) == (None, None)


def test_each_metric_stands_once_in_one_group(server, tensor, image):
    for name in ("int8", "many"):
        assert server.json("POST", f"/v2/models/{name}/infer", {"inputs": [tensor(image())]})[0] == 200
    text = server.ask("GET", "/metrics")[2].decode()
    heads = [line for line in text.splitlines() if line.startswith("# TYPE ")]
    assert len(heads) == len(set(heads))
    group = ""
    for line in text.splitlines():
        group = line.split()[2] if line.startswith("# TYPE ") else group
        name = line.partition("{")[0].partition(" ")[0]
        assert line.startswith("#") or name in {group, *(f"{group}_{end}" for end in ("bucket", "sum", "count"))}
    assert 'edgekit_ready{model="int8"} 1' in text
    assert 'edgekit_run_seconds_count{model="many"}' in text
    assert gauge("own", {'a"b': 2}) == '# TYPE edgekit_own gauge\nedgekit_own{model="a\\"b"} 2\n'
    # Readers of the format (prometheus_client is one) take the ending off: names must differ without it.
    families = [head.split()[2].removesuffix("_total") for head in heads]
    assert len(families) == len(set(families))
    lines = text.splitlines()
    for head in heads:
        assert lines[lines.index(head) - 1].startswith(f"# HELP {head.split()[2]} "), head


def test_buckets_are_what_was_observed():
    metrics = Metrics("m")
    assert sum(metrics.buckets("run_seconds")) == 0
    for seconds in (1e-6, 2e-3, 1e3):
        metrics.observe("run_seconds", seconds)
    counts = metrics.buckets("run_seconds")
    assert (counts[0], counts[-1], sum(counts)) == (1, 1, 3)
    assert json.loads(json.dumps(counts)) == counts
