"""Pools, streams, cascades, metrics and the supervisor. Events in place of sleeps: nothing depends on the clock."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
import threading
from concurrent.futures import CancelledError

import numpy as np
import pytest

import edgekit
from edgekit.errors import EngineError, FeedError, LimitError, UsageError, VerificationError
from edgekit.manifest import Interpret
from edgekit.reading import DetectionReading
from edgekit.runtimes.flow.metrics import BOUNDS, Metrics
from edgekit.runtimes.flow.motion import Motion
from edgekit.runtimes.flow.queue import Aging
from edgekit.runtimes.flow.systemd import Service, notify
from edgekit.runtimes.interpretation.results import Detection, Detections


class Slow:
    """In place of a model: answers a thing with itself, when it is let go."""

    def __init__(self):
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.batches = []
        self.closed = False

    def predict(self, thing):
        return self.predict_batch([thing])[0]

    def predict_batch(self, things):
        self.batches.append(list(things))
        self.begun.release()
        self.go.acquire()
        if "bad" in things:
            raise FeedError("feed-shape", "a bad thing")
        return things

    def close(self):
        self.closed = True


def test_a_pool_answers_as_its_model(artifacts, samples):
    with edgekit.load(artifacts["int8.tflite"]) as model, edgekit.Pool(artifacts["int8.tflite"], sessions=3) as pool:
        things = list(samples(model, 40))
        futures = [pool.submit(thing) for thing in things]
        assert [future.result() for future in futures] == [model.predict(thing) for thing in things]
        assert pool.predict(things[0]) == model.predict(things[0])
    with pytest.raises(EngineError) as caught:
        pool.submit(things[0])
    assert caught.value.code == "model-closed"
    pool.close()


def test_sessions_work_side_by_side():
    models = [Slow(), Slow()]
    left = list(models)
    pool = edgekit.Pool(left.pop, sessions=2)
    futures = [pool.submit(number) for number in range(2)]
    for model in models:
        assert model.begun.acquire(timeout=10)  # both have begun before any is done
    for model in models:
        model.go.release()
    assert [future.result(10) for future in futures] == [0, 1]
    pool.close()
    assert all(model.closed for model in models)


def full(policy, **more):
    """A pool of one session that works on "first", and two that wait."""
    model = Slow()
    pool = edgekit.Pool(lambda: model, sessions=1, queue=2, policy=policy, **more)
    first = pool.submit("first")
    assert model.begun.acquire(timeout=10)
    return model, pool, [first, pool.submit("second"), pool.submit("third")]


def test_a_full_queue_that_drops_the_oldest_answers_the_newest_first():
    model, pool, futures = full("drop-oldest")
    fourth = pool.submit("fourth")
    with pytest.raises(LimitError) as caught:
        futures[1].result(10)
    assert caught.value.code == "request-dropped"
    model.go.release(3)
    assert [f.result(10) for f in (futures[0], futures[2], fourth)] == ["first", "third", "fourth"]
    assert model.batches == [["first"], ["fourth"], ["third"]]
    pool.close()


def test_a_full_queue_that_drops_the_newest():
    model, pool, futures = full("drop-newest")
    with pytest.raises(LimitError):
        pool.submit("fourth").result(10)
    model.go.release(3)
    assert [f.result(10) for f in futures] == ["first", "second", "third"]
    assert len(pool) == 0
    pool.close()


def test_a_full_queue_that_blocks():
    model, pool, futures = full("block")
    fourth = []
    waiting = threading.Thread(target=lambda: fourth.append(pool.submit("fourth")))
    waiting.start()
    assert not fourth
    model.go.release(4)
    waiting.join(10)
    assert [f.result(10) for f in (*futures, *fourth)] == ["first", "second", "third", "fourth"]
    model, pool2, futures = full("block")
    with pytest.raises(LimitError) as caught:
        pool2.submit("fourth", deadline=1e-3).result(10)
    assert caught.value.code == "request-dropped"
    model.go.release(3)
    pool2.close()
    pool.close()


def test_what_is_late_is_not_worked_on():
    metrics = Metrics()
    model, pool, _ = full("block", metrics=metrics)
    model.go.release(3)
    pool.close()
    model = Slow()
    pool = edgekit.Pool(lambda: model, sessions=1, metrics=metrics)
    first = pool.submit("first")
    assert model.begun.acquire(timeout=10)
    late, given_up = pool.submit("late", deadline=1e-9), pool.submit("given up")
    given_up.cancel()
    model.go.release(2)
    assert first.result(10) == "first"
    with pytest.raises(LimitError) as caught:
        late.result(10)
    assert caught.value.code == "request-late"
    with pytest.raises(CancelledError):
        given_up.result(10)
    pool.close()
    assert model.batches == [["first"]]
    assert metrics.snapshot()["requests"] == {"answered": 4, "late": 1}


def test_micro_batches_and_a_bad_thing_among_them():
    model = Slow()
    pool = edgekit.Pool(lambda: model, sessions=1, batch=3)
    first = pool.submit("first")
    assert model.begun.acquire(timeout=10)
    futures = [pool.submit(thing) for thing in ("a", "bad", "b", "c")]
    model.go.release(10)
    assert [f.result(10) for f in (first, futures[0], futures[2], futures[3])] == ["first", "a", "b", "c"]
    with pytest.raises(FeedError):
        futures[1].result(10)
    assert model.batches == [["first"], ["a", "bad", "b"], ["a"], ["bad"], ["b"], ["c"]]
    pool.close()


@pytest.mark.parametrize("what", [SystemExit(3), KeyboardInterrupt(), MemoryError()])
def test_what_ends_a_thread_ends_no_worker(artifacts, what):
    """A thing that raises it when it is prepared, and a callback that raises it when it is told."""

    class Thing:
        def __array__(self, *_args, **_kwargs):
            raise what

    def callback(_):
        raise what if not isinstance(what, Exception) else SystemExit

    with edgekit.Pool(artifacts["fp32.onnx"], sessions=1) as pool:
        bad = pool.submit(Thing())
        assert bad.exception(60) is what
        model = Slow()
    with edgekit.Pool(lambda: model, sessions=1) as pool:
        first = pool.submit("first")
        assert model.begun.acquire(timeout=60)
        first.add_done_callback(callback)
        late = pool.submit("late", deadline=-1.0)
        late.add_done_callback(callback)
        second = pool.submit("second")
        model.go.release(2)
        assert second.result(60) == "second"


def test_a_model_that_answers_too_few_fails_who_asked():
    class Lazy(Slow):
        def predict_batch(self, things):
            return super().predict_batch(things)[1:]

    model = Lazy()
    with edgekit.Pool(lambda: model, sessions=1) as pool:
        model.go.release(2)
        for _ in range(2):
            assert isinstance(pool.submit("one").exception(60), ValueError)


def test_a_pool_is_closed_by_a_callback_of_its_own():
    models = [Slow(), Slow()]
    left = list(models)
    pool = edgekit.Pool(left.pop, sessions=2)
    workers = list(pool._threads)
    failed = []

    def close(_):
        try:
            pool.close()
        except BaseException as error:
            failed.append(error)
            raise

    futures = [pool.submit(number) for number in range(3)]  # one waits
    for model in models:
        assert model.begun.acquire(timeout=60)
    for future in futures:
        future.add_done_callback(close)  # both workers at once
    for model in models:
        model.go.release(2)
    assert [future.result(60) for future in futures] == [0, 1, 2]
    for worker in workers:
        worker.join(60)
    assert failed == []
    assert [model.closed for model in models] == [True, True]
    with pytest.raises(EngineError) as caught:
        pool.submit(4)
    assert caught.value.code == "model-closed"
    pool.close()


@pytest.mark.parametrize("what", [SystemExit(3), KeyboardInterrupt(), OSError("no camera")])
def test_what_the_source_raises_is_raised_where_answers_are_asked_for(what):
    def camera():
        yield from range(3)
        raise what

    seen = []
    with pytest.raises(type(what)) as caught:
        seen.extend(one.answer for one in edgekit.Stream(lambda frame: frame, camera(), policy="block", queue=9))
    assert caught.value is what


@pytest.mark.parametrize("how", ["break", "end", "close", "iterable"])
def test_a_camera_is_released_with_its_stream(how):
    """By its generator's `finally`, in the thread that takes the frames, though somebody still has it."""
    released = []

    def camera():
        try:
            yield from range(3) if how == "end" else itertools.count()
        finally:
            released.append(threading.current_thread())

    class Camera:
        def __iter__(self):
            return camera()

    source = Camera() if how == "iterable" else camera()
    with edgekit.Stream(lambda frame: frame, source) as stream:
        for _ in stream:
            if how == "close":
                stream.close()
            elif how != "end":
                break
    stream._thread.join(60)
    assert released == [stream._thread]


def test_a_function_is_not_asked_about_colors():
    with pytest.raises(UsageError) as caught:
        edgekit.Stream(len, [], colors="BGR")
    assert caught.value.code == "option-value"


def test_pools_and_streams_that_make_no_sense(artifacts):
    nan, inf = float("nan"), float("inf")
    for wrong in (
        {"sessions": 0}, {"sessions": 1000}, {"queue": 0}, {"queue": 2.5}, {"batch": 0}, {"batch": "2"},
        {"policy": "hope"}, {"deadline": -1}, {"deadline": nan}, {"deadline": inf}, {"wait": -1}, {"wait": nan},
        {"wait": "1"}, {"threads": 0}, {"threads": 1_000_000},
    ):  # fmt: skip
        with pytest.raises(UsageError) as caught:
            edgekit.Pool(artifacts["fp32.onnx"], **wrong)
        assert caught.value.code == "option-value"
    for wrong in (
        {"queue": 0}, {"queue": 1.5}, {"every": -1}, {"every": inf}, {"every": "1"}, {"deadline": 0},
        {"deadline": nan}, {"policy": "hope"},
    ):  # fmt: skip
        with pytest.raises(UsageError) as caught:
            edgekit.Stream(len, [], **wrong)
        assert caught.value.code == "option-value"
    model = Slow()
    with edgekit.Pool(lambda: model, sessions=1) as pool:
        for deadline in (nan, inf, "1"):
            with pytest.raises(UsageError):
                pool.submit("one", deadline=deadline)


def test_a_stream_of_a_file_answers_every_frame():
    metrics = Metrics()
    stream = edgekit.Stream(lambda frame: frame * 2, range(50), policy="block", metrics=metrics)
    seen = list(stream)
    assert [(s.number, s.frame, s.answer) for s in seen] == [(n, n, 2 * n) for n in range(50)]
    assert all(s.age >= s.waited >= 0 for s in seen)
    assert (stream.tally.answered, stream.tally.dropped) == (50, 0)
    assert metrics.snapshot()["frames"] == {"answered": 50}
    assert metrics.snapshot()["frame_age_seconds"]["count"] == 50
    with pytest.raises(UsageError) as caught:
        iter(stream)
    assert caught.value.code == "stream-used"


@pytest.mark.parametrize(("policy", "expected"), [("drop-oldest", [0, 9]), ("drop-newest", [0, 1])])
def test_a_camera_faster_than_the_model(policy, expected):
    """Nine frames come while the first is worked on."""
    begun, come = threading.Event(), threading.Event()

    def camera():
        yield 0
        assert begun.wait(10)
        yield from range(1, 10)
        come.set()

    def model(frame):
        if frame == 0:
            begun.set()
            assert come.wait(10)
        return frame

    stream = edgekit.Stream(model, camera(), policy=policy)
    assert [seen.answer for seen in stream] == expected
    assert (stream.tally.answered, stream.tally.dropped) == (2, 8)


def test_stale_frames_cost_no_work():
    stream = edgekit.Stream(
        lambda frame: pytest.fail("worked on a stale frame"), range(5), policy="block", deadline=1e-9
    )
    assert list(stream) == []
    assert stream.tally.stale == 5


def test_errors_of_source_and_model_reach_the_loop():
    def broken():
        yield 1
        raise OSError("the camera is gone")

    seen = []
    with pytest.raises(OSError, match="camera is gone"):
        seen.extend(edgekit.Stream(str, broken(), policy="block"))

    def refuse(frame):
        raise FeedError("feed-shape", "no")

    with pytest.raises(FeedError):
        list(edgekit.Stream(refuse, range(9), policy="block"))


def test_a_stream_that_is_left_early_ends_its_thread():
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield 1

    with edgekit.Stream(str, endless(), policy="block") as stream:
        for seen in stream:
            assert seen.answer == "1"
            break
    stream._thread.join(10)
    assert not stream._thread.is_alive()


def test_frames_alike_are_left_out():
    dice = np.random.default_rng(0)
    still = np.full((480, 640, 3), 100, np.uint8)
    noisy = (still + dice.integers(-2, 3, still.shape)).astype(np.uint8)
    moved = still.copy()
    moved[100:200, 100:300] = 250
    frames = [still, noisy, still, moved, moved, noisy, np.zeros((8, 8, 3), np.uint8)]
    stream = edgekit.Stream(lambda frame: 1, frames, policy="block", gate=Motion())
    assert [seen.number for seen in stream] == [0, 3, 5, 6]
    assert stream.tally.alike == 3


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, bool, np.uint16, np.int32])
def test_frames_of_any_numbers_move(dtype):
    most = 1 if np.dtype(dtype).kind in "fb" else 255 if dtype is np.uint8 else 60000
    dark, moving = np.zeros((64, 64, 3), dtype), Motion()
    light = np.full_like(dark, most)
    assert [moving(frame) for frame in (dark, dark, light, light, dark)] == [True, False, True, False, True]


def test_frames_that_are_broken_are_new():
    moving = Motion()
    assert moving(np.zeros((64, 64), np.float32))
    assert moving(np.full((64, 64), np.nan, np.float32))


@pytest.mark.parametrize(
    ("frame", "code"),
    [("a.png", "feed-dtype"), (b"a", "feed-dtype"), (np.zeros((0, 8, 3)), "feed-shape"), (np.zeros(8), "feed-shape"),
     (np.zeros((1, 8, 8, 3)), "feed-shape")],
)  # fmt: skip
def test_what_is_no_frame(frame, code):
    with pytest.raises(FeedError) as caught:
        Motion()(frame)
    assert caught.value.code == code


def test_a_queue_ages():
    queue = Aging(2, "drop-oldest")
    assert [queue.put(n) for n in (1, 2, 3)] == [None, None, 1]
    assert queue.take()[0] == 3
    assert queue.take()[0] == 2
    assert queue.take(0.0) is None
    queue.put(4)
    assert queue.close() == [4]
    assert queue.put(5) == 5
    assert not queue.over
    assert queue.take()[0] == 4
    assert queue.over
    assert queue.take() is None


class Detector:
    """Finds two boxes, one of another label."""

    interpret = Interpret("detection", labels=("face", "car"), detection=DetectionReading())

    def predict(self, picture, colors=None):
        return Detections((Detection(0, "face", 0.9, (10.0, 20.0, 30.0, 40.0)), Detection(1, "car", 0.8, (0, 0, 5, 5)),
                           Detection(0, "face", 0.7, (90.0, 50.0, 130.0, 90.0))))  # fmt: skip


class Shape:
    def predict_batch(self, pictures, colors=None):
        return [picture.shape for picture in pictures]


def test_a_cascade_looks_at_what_was_found():
    picture = np.zeros((60, 100, 3), np.uint8)
    found = edgekit.Cascade(Detector(), Shape(), labels=("face",)).predict(picture)
    assert [(f.detection.label, f.answer) for f in found] == [("face", (20, 20, 3)), ("face", (10, 10, 3))]
    wider = edgekit.Cascade(Detector(), Shape(), labels=("face",), margin=0.5, limit=1).predict(picture)
    assert [f.answer for f in wider] == [(40, 40, 3)]

    class Other(Detector):
        interpret = Interpret("classification")

    with pytest.raises(UsageError) as caught:
        edgekit.Cascade(Other(), Shape())
    assert caught.value.code == "cascade-task"


class Values:
    """Says how large the values of each crop are."""

    def predict_batch(self, pictures, colors=None):
        return [(int(picture.max()), picture.shape, colors) for picture in pictures]


@pytest.mark.parametrize("form", ["path", "text", "bytes", "open", "pillow"])
@pytest.mark.parametrize("depth", [8, 16])
def test_a_cascade_takes_pictures_as_predict_does(tmp_path, depth, form):
    from PIL import Image

    path = tmp_path / "gray.png"
    made = np.full((60, 100), 100, np.uint8) if depth == 8 else np.full((60, 100), 25700, np.uint16)
    Image.fromarray(made).save(path)
    with path.open("rb") as file, Image.open(path) as pillow:
        forms = {"path": path, "text": str(path), "bytes": path.read_bytes(), "open": file, "pillow": pillow}
        found = edgekit.Cascade(Detector(), Values(), labels=("face",), limit=1).predict(forms[form])
    assert [f.answer for f in found] == [(100, (20, 20, 3), "RGB")]


@pytest.mark.parametrize("thing", [b"garbage", {"x": 1}, 3, np.zeros(4), np.zeros((1, 4, 4, 3), np.uint8)])
def test_what_a_cascade_does_not_take(thing):
    with pytest.raises(FeedError) as caught:
        edgekit.Cascade(Detector(), Values()).predict(thing)
    assert caught.value.code in ("feed-dtype", "feed-shape")


def test_metrics_count_what_models_do(artifacts, samples):
    metrics = Metrics('the "first"')
    with edgekit.load(artifacts["int8.tflite"], metrics=metrics) as model:
        thing = samples(model)[0]
        for _ in range(5):
            model.predict(thing)
        with pytest.raises(FeedError):
            model.run({"nothing": thing})
    seen = metrics.snapshot()
    assert seen["run_seconds"]["count"] == seen["predict_seconds"]["count"] == 5
    assert 0 < seen["run_seconds"]["sum"] < seen["predict_seconds"]["sum"]
    assert seen["errors"] == {"feed-name": 1}
    text = metrics.text()
    assert 'edgekit_errors_total{model="the \\"first\\"",kind="feed-name"} 1\n' in text
    assert 'edgekit_run_seconds_bucket{model="the \\"first\\"",le="+Inf"} 5\n' in text
    assert text.count("# TYPE edgekit_run_seconds histogram") == 1


def test_totals_keep_all_their_digits():
    metrics = Metrics("m")
    metrics.count("requests", "answered", by=123_456_789)
    metrics.count("frames", by=0.1)
    metrics.observe("run_seconds", 1_234_567.875)
    lines = metrics.text().splitlines()
    assert 'edgekit_requests_total{model="m",kind="answered"} 123456789' in lines
    assert 'edgekit_frames_total{model="m"} 0.1' in lines
    assert 'edgekit_run_seconds_sum{model="m"} 1234567.875' in lines


def test_histograms_by_known_values():
    metrics = Metrics()
    for value in [0.001] * 90 + [0.5] * 9 + [1000.0]:
        metrics.observe("x_seconds", value)
    seen = metrics.snapshot()["x_seconds"]
    assert (seen["count"], seen["p50"], seen["p99"]) == (100, 0.001, 0.56)
    assert seen["sum"] == pytest.approx(0.09 + 4.5 + 1000)
    counts = [int(line.rsplit(" ", 1)[1]) for line in metrics.text().splitlines() if "_bucket" in line]
    assert counts == sorted(counts)
    assert (len(counts), counts[-2:], BOUNDS[-1]) == (len(BOUNDS) + 1, [99, 100], 56.0)
    metrics.count("frames")
    metrics.count("frames", by=2)
    assert metrics.snapshot()["frames"] == 3
    assert 'edgekit_frames_total{model=""} 3' in metrics.text()


def test_metrics_of_many_threads():
    metrics = Metrics()

    def work():
        for _ in range(500):
            metrics.observe("x", 0.1)
            metrics.count("y")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.snapshot()["x"]["count"] == metrics.snapshot()["y"] == 4000


@pytest.fixture
def supervisor(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as there:
        there.bind(str(tmp_path / "notify"))
        there.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield there


def test_ready_is_said_after_the_self_test(supervisor, artifacts, tiny_files, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    service = Service()
    with edgekit.load(artifacts["int8.tflite"]) as model, edgekit.load(tiny_files["onnx"]) as foreign:
        service.ready(model, foreign)
    assert supervisor.recv(100) == b"READY=1"
    assert service.beat()
    assert supervisor.recv(100) == b"WATCHDOG=1"
    assert not service.beat()  # not before half the time is over
    assert service.status("one\ntwo")
    assert supervisor.recv(100) == b"STATUS=one two"
    assert service.stopping()


def test_a_model_that_answers_wrong_is_never_ready(supervisor, artifacts, monkeypatch):
    with edgekit.load(artifacts["fp32.onnx"]) as model:
        real = model.run
        monkeypatch.setattr(model, "run", lambda *a, **k: {name: value + 1 for name, value in real(*a, **k).items()})
        with pytest.raises(VerificationError) as caught:
            Service().ready(model)
    assert caught.value.code == "selftest-failed"
    supervisor.setblocking(False)
    with pytest.raises(BlockingIOError):
        supervisor.recv(100)


def test_without_a_supervisor_nothing_is_sent(monkeypatch, tmp_path):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    assert not notify("READY=1")
    assert not Service().beat()
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    with pytest.raises(EngineError) as caught:
        notify("READY=1")
    assert caught.value.code == "notify-failed"


_CAMERA = """
import os, threading, edgekit
def camera():
    try:
        yield from range(10**9)
    finally:
        os.write(1, b"released\\n")
def stuck():
    yield 1
    threading.Event().wait()
for frames in (camera(), stuck()):
    for seen in edgekit.Stream(str, frames):
        break
os.write(1, b"done\\n")
"""


def test_a_camera_is_released_when_the_app_ends_after_a_break():
    """The thread was cut off in the source; one that never gives another frame does not hold the app up."""
    ended = subprocess.run([sys.executable, "-c", _CAMERA], capture_output=True, text=True, timeout=120, check=True)
    assert sorted(ended.stdout.split()) == ["done", "released"], ended


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_pool_that_cannot_be_made_closes_what_it_opened(error):
    opened = []

    class Session:
        closed = False

        def close(self):
            self.closed = True

    def source():
        if len(opened) == 2:
            raise error
        opened.append(Session())
        return opened[-1]

    with pytest.raises(error):
        edgekit.Pool(source, sessions=3)
    assert [one.closed for one in opened] == [True, True]
