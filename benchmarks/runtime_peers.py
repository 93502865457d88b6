"""`Model.predict` beside the tools that do the same job: model_api, MediaPipe, RapidOCR, NudeNet, OpenCV, librosa.

    make runtime-peers            # environments under build/peers, then: python benchmarks/runtime_peers.py --write

Each tool runs in its own environment, and there, in the same process, EdgeKit (from build/peers/edgekit-files) with the
same file; answers are compared first, calls interleaved, and the engines called bare beside both. Needs the trained
models beside the checkout. One JSON line a job; `--write` makes the table of docs/runtime.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from openers import litert, onnx

HERE = Path(__file__).resolve()
PEERS = HERE.parents[1] / "build" / "peers"
SHARED = HERE.parents[2] / "shared"
JOBS = {
    "photo-opencv": ("opencv", "OpenCV and LiteRT by hand", "MobileNet 0.5 (uint8 TFLite) on a 640x480 frame"),
    "photo-opencv-here": ("opencv", "the same; EdgeKit finds OpenCV imported", "the same"),
    "photo-mediapipe": ("mediapipe", "MediaPipe's ImageClassifier", "the same"),
    "person-opencv": ("opencv", "OpenCV and LiteRT by hand", "somebody in a 640x480 frame (int8 TFLite, 96x96)"),
    "person-opencv-here": ("opencv", "the same; EdgeKit finds OpenCV imported", "the same"),
    "small-modelapi": ("modelapi", "openvino-model-api, on OpenVINO", "ResNet8 (fp32 ONNX) on a 640x480 frame"),
    "text-rapidocr": ("rapidocr", "RapidOCR's TextClassifier", "which way up a line of text is (ONNX)"),
    "detect-nudenet": ("nudenet", "NudeNet, as Ultralytics' examples do", "YOLOv8n at 320 (ONNX) on a 640x480 frame"),
    "words-librosa": ("opencv", "librosa and LiteRT by hand", "DS-CNN (int8 TFLite) on a second of sound"),
}


def convert(folder: Path) -> None:
    """The artifacts of all jobs, by the main environment."""
    import edgekit

    photo: dict[str, Any] = {"kind": "image", "image": {"convention": "opencv"}}
    ranked = {"task": "classification", "scores": "probabilities"}
    models = SHARED / "models"
    mobilenet = models / "imagenet_mobilenet_tflite/mobilenet_v1_0.5_160_quant.tflite"
    bytes_as_they_are = {**photo, "scale": 1 / 128, "mean": [1.0]}  # the input's own scale: both cancel
    about = {"preprocess": bytes_as_they_are, "interpret": ranked}
    edgekit.convert(mobilenet, output=folder / "photo.tflite", metadata=about)
    about = {"preprocess": {**photo, "scale": 1 / 255}, "interpret": ranked}
    edgekit.convert(models / "vww_mobilenet/vww_96_int8.tflite", output=folder / "person.tflite", metadata=about)
    about = {"preprocess": photo, "interpret": {**ranked, "top_k": 3}}
    edgekit.convert(models / "ic_resnet8/resnet8_fp32.tflite", output=folder / "small.onnx", metadata=about)
    audio = {"rate": 16000, "samples": 16000, "features": "mfcc", "frame": 640, "hop": 320, "coefficients": 10,
             "convention": "librosa"}  # fmt: skip
    about = {"preprocess": {"kind": "waveform", "audio": audio}, "interpret": {**ranked, "top_k": 1}}
    edgekit.convert(models / "kws_dscnn/kws_int8.tflite", output=folder / "words.tflite", metadata=about)
    packages = "lib/python{}.{}/site-packages".format(*sys.version_info)
    text = PEERS / "rapidocr" / packages / "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"
    line = {"fit": "letterbox", "place": "corner", "border": 128, "convention": "opencv"}
    about = {"preprocess": {"kind": "image", "scale": 1 / 255, "mean": [0.5], "std": [0.5], "colors": "BGR",
                            "image": line}, "interpret": ranked}  # fmt: skip
    edgekit.convert(text, output=folder / "text.onnx", metadata=about, shapes={"x": (1, 3, 48, 192)})
    square = {"fit": "letterbox", "place": "corner", "border": 0, "convention": "opencv"}
    boxes = {"family": "yolo", "corners": "center", "relative": False, "iou": 0.45, "agnostic": True}
    about = {"preprocess": {"kind": "image", "scale": 1 / 255, "image": square},
             "interpret": {"task": "detection", "threshold": 0.25, "detection": boxes,
                           "labels": [str(index) for index in range(18)]}}  # fmt: skip
    net = PEERS / "nudenet" / packages / "nudenet/320n.onnx"
    edgekit.convert(net, output=folder / "detect.onnx", metadata=about, shapes={"images": (1, 3, 320, 320)})


def pictures(folder: Path) -> None:
    """What is looked at, as arrays: not every environment decodes files."""
    import numpy as np
    from PIL import Image, ImageDraw

    for name in ("parrot", "face"):
        photo = Image.open(SHARED / f"data/photos/{name}.jpg").convert("RGB").resize((640, 480))
        np.save(folder / f"{name}.npy", np.asarray(photo))
    drawn = Image.new("RGB", (300, 60), "white")
    ImageDraw.Draw(drawn).text((10, 10), "Edge of the kit", fill="black", font_size=36)
    np.save(folder / "line.npy", np.asarray(drawn))


def picture_of(folder: Path, name: str) -> Any:
    """uint8 [H,W,3], RGB."""
    import numpy as np

    return np.load(folder / f"{name}.npy")


def top(answer: Any) -> list[tuple[int, float]]:
    return [(score.index, score.score) for score in answer.classes]


def alike(ours: list[tuple[int, float]], theirs: list[tuple[int, float]], off: float) -> bool:
    """The surest answers are the same and as sure."""
    return ours[0][0] == theirs[0][0] and abs(ours[0][1] - theirs[0][1]) <= off


def photo_opencv(folder: Path) -> Any:
    import cv2
    import numpy as np

    path = folder / "photo.tflite"
    engine, picture = litert(path), picture_of(folder, "parrot")
    taken, given = engine.get_input_details()[0], engine.get_output_details()[0]
    scale, zero = given["quantization"]

    def by_hand() -> Any:
        engine.set_tensor(taken["index"], cv2.resize(picture, (160, 160))[None])
        engine.invoke()
        scores = (engine.get_tensor(given["index"])[0].astype(np.float32) - zero) * scale
        return [(int(index), float(scores[index])) for index in np.argsort(-scores)[:5]]

    return path, picture, by_hand, engine.invoke, top, 0.02


def person_opencv(folder: Path) -> Any:
    """By hand as tutorials have it: to 0..1, then by the tensor's own scale to int8."""
    import cv2
    import numpy as np

    path = folder / "person.tflite"
    engine, picture = litert(path), picture_of(folder, "parrot")
    taken, given = engine.get_input_details()[0], engine.get_output_details()[0]
    (scale, zero), (out_scale, out_zero) = taken["quantization"], given["quantization"]

    def by_hand() -> Any:
        small = cv2.resize(picture, (96, 96)).astype(np.float32) / 255
        engine.set_tensor(taken["index"], np.clip(np.rint(small / scale) + zero, -128, 127).astype(np.int8)[None])
        engine.invoke()
        scores = (engine.get_tensor(given["index"])[0].astype(np.float32) - out_zero) * out_scale
        return [(int(index), float(scores[index])) for index in np.argsort(-scores)]

    return path, picture, by_hand, engine.invoke, top, 0.02


def photo_mediapipe(folder: Path) -> Any:
    import mediapipe
    from mediapipe.tasks.python import BaseOptions, vision

    path = folder / "photo.tflite"
    source = SHARED / "models/imagenet_mobilenet_tflite/mobilenet_v1_0.5_160_quant.tflite"
    chosen = vision.ImageClassifierOptions(base_options=BaseOptions(model_asset_path=str(source)), max_results=5)
    task, picture = vision.ImageClassifier.create_from_options(chosen), picture_of(folder, "parrot")

    def call() -> Any:
        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=picture)
        found = task.classify(image).classifications[0].categories
        return [(one.index, one.score) for one in found]

    return path, picture, call, None, top, 0.1


def small_modelapi(folder: Path) -> Any:
    from model_api.adapters import OpenvinoAdapter, create_core
    from model_api.models import ClassificationModel

    path, picture = folder / "small.onnx", picture_of(folder, "parrot")
    adapter = OpenvinoAdapter(create_core(), str(path), plugin_config={"INFERENCE_NUM_THREADS": 1})
    about = {"labels": [str(index) for index in range(10)], "topk": 3, "confidence_threshold": 0.0}
    model = ClassificationModel(adapter, about, preload=True)

    def call() -> Any:
        return [(int(one.id), float(one.confidence)) for one in model(picture).top_labels]

    return path, picture, call, None, top, 0.05


def text_rapidocr(folder: Path) -> Any:
    import numpy as np
    from rapidocr_onnxruntime.ch_ppocr_cls import TextClassifier

    picture = np.ascontiguousarray(picture_of(folder, "line")[:, :, ::-1])
    path = folder / "text.onnx"
    classifier = TextClassifier({
        "cls_image_shape": [3, 48, 192], "cls_batch_num": 6, "cls_thresh": 0.9, "label_list": ["0", "180"],
        "model_path": str(path), "intra_op_num_threads": 1, "inter_op_num_threads": 1, "use_cuda": False,
        "use_dml": False,
    })  # fmt: skip

    def call() -> Any:
        ((label, score),) = classifier(picture)[1]
        return [(int(label == "180"), float(score))]

    session = classifier.infer.session
    feed = {session.get_inputs()[0].name: np.zeros((1, 3, 48, 192), np.float32)}
    return path, picture, call, lambda: session.run(None, feed), top, 0.02


def detect_nudenet(folder: Path) -> Any:
    import numpy as np
    from nudenet import NudeDetector, nudenet

    path, picture = folder / "detect.onnx", picture_of(folder, "face")
    detector = NudeDetector(model_path=str(path), inference_resolution=320)
    detector.onnx_session = onnx(path)
    labels = getattr(nudenet, "__labels")
    feed = {detector.input_name: np.zeros((1, 3, 320, 320), np.float32)}

    def call() -> Any:  # it turns colors twice: what it takes is RGB
        return [(labels.index(one["class"]), one["score"]) for one in detector.detect(picture)]

    def read(answer: Any) -> Any:
        return [(item.index, item.score) for item in answer]

    return path, picture, call, lambda: detector.onnx_session.run(None, feed), read, 0.02


def words_librosa(folder: Path) -> Any:
    import librosa
    import numpy as np

    path = folder / "words.tflite"
    sound = (np.random.default_rng(0).normal(size=16000) / 10).astype(np.float32)
    engine = litert(path)
    taken, given = engine.get_input_details()[0], engine.get_output_details()[0]
    scale, zero = taken["quantization"]
    out_scale, out_zero = given["quantization"]

    def by_hand() -> Any:
        features = librosa.feature.mfcc(y=sound, sr=16000, n_mfcc=10, n_fft=640, hop_length=320, n_mels=40,
                                        center=False, htk=False).T  # fmt: skip
        quantized = np.clip(np.rint(features / scale) + zero, -128, 127).astype(np.int8)
        engine.set_tensor(taken["index"], quantized[None, :, :, None])
        engine.invoke()
        scores = (engine.get_tensor(given["index"])[0].astype(np.float32) - out_zero) * out_scale
        best = int(np.argmax(scores))
        return [(best, float(scores[best]))]

    return path, sound, by_hand, engine.invoke, top, 0.02


def measure(job: str, folder: Path, rounds: int) -> dict[str, Any]:
    """In the environment of the peer: medians in microseconds, of interleaved blocks of calls."""
    import edgekit

    made = globals()[job.removesuffix("-here").replace("-", "_")]
    path, thing, theirs, bare, read, off = made(folder)
    if not job.endswith("-here"):  # numpy alone, though the peer has imported it
        sys.modules.pop("cv2", None)
    with edgekit.load(path, threads=1) as model:
        if not alike(read(model.predict(thing)), theirs(), off):
            raise SystemExit(f"{job}: {read(model.predict(thing))} is not {theirs()}")
        feed = {spec.name: _zeros(spec) for spec in model.inputs}
        calls = {"edgekit": lambda: model.predict(thing), "peer": theirs,
                 "engine": bare or (lambda: model.run(feed, raw=True))}  # fmt: skip
        times = interleaved(calls, rounds)
    medians = {f"{name}_us": round(statistics.median(each), 1) for name, each in times.items()}
    ratios = [a / b for a, b in zip(times["edgekit"], times["peer"], strict=True)]
    return {"job": job, **medians, "ratio": round(statistics.median(ratios), 3)}


def _zeros(spec: Any) -> Any:
    import numpy as np

    return np.zeros([size or 1 for size in spec.shape], spec.dtype)


def interleaved(calls: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(2):
        for call in calls.values():
            call()
    for number in range(rounds):
        for name in list(calls) if number % 2 else reversed(list(calls)):
            taken = []
            for _ in range(8):
                start = time.perf_counter_ns()
                calls[name]()
                taken.append(time.perf_counter_ns() - start)
            times[name].append(statistics.median(taken) / 1000)
    return times


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| job | beside | EdgeKit | peer | ratio | bare engine |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        _, peer, job = JOBS[row["job"]]
        shown = [f"{row[key] / 1000:.2f} ms" for key in ("edgekit_us", "peer_us", "engine_us")]
        lines.append(f"| {job} | {peer} | {shown[0]} | {shown[1]} | {row['ratio']:.2f} | {shown[2]} |")
    return "\n".join(lines)


def main() -> None:
    """Each job in the environment of its peer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", choices=JOBS)
    parser.add_argument("--only", choices=JOBS, nargs="*", default=list(JOBS))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--convert", action="store_true", help="make the artifacts, and no more")
    parser.add_argument("--write", action="store_true", help="put the table into docs/runtime.md")
    chosen = parser.parse_args()
    folder = PEERS / "artifacts"
    if chosen.job:
        print(json.dumps(measure(chosen.job, folder, chosen.rounds)))
        return
    if not (SHARED / "models").is_dir() or not (PEERS / "edgekit-files").is_dir():
        print(json.dumps({"skipped": "make runtime-peers, with the trained models beside the checkout"}))
        return
    folder.mkdir(parents=True, exist_ok=True)
    if chosen.convert or any(not (folder / name).exists() for name in ("detect.onnx", "person.tflite")):
        pictures(folder)
        convert(folder)
    rows = []
    for job in [] if chosen.convert else chosen.only:
        peer = JOBS[job][0]
        python = PEERS / peer / "bin" / "python"
        environment = {**os.environ, "PYTHONPATH": str(PEERS / "edgekit-files"), "OPENBLAS_NUM_THREADS": "1"}
        command = [str(python), str(HERE), "--job", job, "--rounds", str(chosen.rounds)]
        ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if ran.returncode:
            print(json.dumps({"job": job, "failed": ran.stderr.strip().splitlines()[-6:]}), flush=True)
            continue
        rows.append(json.loads(ran.stdout.strip().splitlines()[-1]))
        print(json.dumps(rows[-1]), flush=True)
    if chosen.write:
        from pages import put

        put("peers", table(rows), HERE.parents[1] / "docs" / "runtime.md")


if __name__ == "__main__":
    main()
