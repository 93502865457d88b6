"""How far preparation lies from Pillow, OpenCV and librosa, and what it costs beside OpenCV and Pillow.

    python benchmarks/preparation.py                       # with what is installed; says what is missing
    pip install opencv-python-headless librosa             # in an environment of its own, with edgekit

One JSON line a comparison: the largest difference, and what is asked. `--write` makes the table of sizes in
docs/runtime.md.
"""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.feeding import AudioSteps, ImageSteps, Preprocess
from edgekit.runtimes.preparation.pictures import Geometry, fit
from edgekit.runtimes.preparation.resizing import resize
from edgekit.runtimes.preparation.spectra import spectrum
from edgekit.runtimes.preprocess import Preparer
from edgekit.tensors import QuantParams, TensorSpec

SIZES = [((480, 640), (224, 224)), ((480, 640), (240, 320)), ((720, 1280), (300, 300)), ((48, 64), (17, 23)),
         ((96, 96), (224, 224)), ((13, 9), (40, 31)), ((30, 40), (15, 90)), ((1080, 1920), (640, 640)),
         ((5, 7), (1, 1))]  # fmt: skip
RATE = 16000
NAMES = {"opencv": "OpenCV", "pillow": "Pillow"}


def found(name: str) -> Any:
    """The module, or None with a line that says so."""
    try:
        return importlib.import_module(name)
    except ImportError:
        print(json.dumps({"skipped": f"{name} is not installed"}), flush=True)
        return None


def say(what: str, **figures: Any) -> None:
    """One line."""
    print(json.dumps({"what": what, **figures}), flush=True)


def hidden(name: str, call: Callable[[], Any]) -> Any:
    """As on a board whose app has not imported a library."""
    kept = sys.modules.pop(name, None)
    try:
        return call()
    finally:
        if kept is not None:
            sys.modules[name] = kept


def pictures() -> Iterator[tuple[Any, tuple[int, int]]]:
    """Noise beside ramps, of several sizes and of any, and the sizes wanted."""
    dice = np.random.default_rng(0)
    anything = (tuple(dice.integers(1, most, 4).tolist()) for most in (9, 60, 250) for _ in range(200))
    for size, wanted in [*SIZES, *(((a, b), (c, d)) for a, b, c, d in anything)]:
        for channels in (1, 3):
            made = dice.integers(0, 256, (*size, channels), dtype=np.uint8)
            made[: size[0] // 2] = np.linspace(0, 255, size[1])[:, None]
            yield made, wanted


def steps_off(reference: Callable[[Any, tuple[int, int], str], Any], convention: str, module: str) -> None:
    """Steps of 255 between ours and the reference, for each mode."""
    for how in ("nearest", "bilinear", "area"):
        worst, differing, pixels = 0, 0, 0
        for given, wanted in pictures():
            expected = np.asarray(reference(given, wanted, how)).reshape(*wanted, -1)
            ours = hidden(module, lambda: resize(given, *wanted, how, convention))  # noqa: B023
            off = np.abs(ours.astype(int) - expected)
            worst, differing, pixels = max(worst, int(off.max())), differing + int((off > 0).sum()), pixels + off.size
        line = {
            "what": f"{how} as {convention}",
            "worst_steps": worst,
            "differing": round(differing / pixels, 5),
            "asked": 1,
        }
        print(json.dumps(line), flush=True)


def times(calls: dict[str, Callable[[], Any]], rounds: int = 30) -> dict[str, float]:
    """Medians in milliseconds, in turns."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            taken[name].append(1000 * (time.perf_counter() - start))
    return {name: round(statistics.median(values), 3) for name, values in taken.items()}


Times = dict[tuple[str, tuple[int, int]], tuple[float, float]]
"""What is done and to which size -> milliseconds in numpy, and by the library."""


def resizing(convention: str, module: str, reference: Callable[[Any, tuple[int, int], str], Any]) -> Times:
    """Times of a camera's frame, in numpy and by the library."""
    found: Times = {}
    frame = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    for wanted in ((160, 160), (224, 224), (240, 320)):
        for how in ("nearest", "bilinear", "area"):
            seen = times({
                "edgekit in numpy": lambda: hidden(module, lambda: resize(frame, *wanted, how, convention)),  # noqa: B023
                convention: lambda: reference(frame, wanted, how),  # noqa: B023
            })  # fmt: skip
            ratio = round(seen["edgekit in numpy"] / seen[convention], 2)
            say(f"640x480 frame to {wanted[1]}x{wanted[0]}, {how}, ms", **seen, ratio=ratio)
            found[f"{how} as {NAMES[convention]}", wanted] = seen["edgekit in numpy"], seen[convention]
    return found


def table(seen: Times) -> str:
    """For the page."""
    sizes = sorted({wanted for _, wanted in seen})
    lines = ["| a 640x480 frame resized by numpy alone, and by the library | "
             + " | ".join(f"to {width}x{height}" for height, width in sizes) + " |"]  # fmt: skip
    lines.append("| --- |" + " --- |" * len(sizes))
    for what in dict.fromkeys(what for what, _ in seen):
        cells = [f"{ours:.2f}, {theirs:.2f} ms" for ours, theirs in (seen[what, wanted] for wanted in sizes)]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return "\n".join(lines)


def against_opencv() -> Times:
    """Numbers and times."""
    cv2 = found("cv2")
    if cv2 is None:
        return {}
    modes = {"nearest": cv2.INTER_NEAREST, "bilinear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA}
    cv2.setNumThreads(1)

    def reference(given: Any, wanted: tuple[int, int], how: str) -> Any:
        return cv2.resize(given, wanted[::-1], interpolation=modes[how])

    steps_off(reference, "opencv", "cv2")
    sizes = resizing("opencv", "cv2", reference)
    frame = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    spec = TensorSpec("x", (1, 224, 224, 3), "int8", "NHWC", QuantParams((1 / 255,), (-128,)))
    how = Preprocess("image", 1 / 255, image=ImageSteps(convention="opencv"))
    preparer = Preparer((spec,), how)

    def by_hand() -> Any:
        small = cv2.resize(frame, (224, 224)).astype(np.float32) / 255
        return np.clip(np.rint(small / np.float32(1 / 255)) - 128, -128, 127).astype(np.int8)[None]

    seen = times({"edgekit with cv2": lambda: preparer(frame), "cv2 by hand": by_hand,
                  "edgekit in numpy": lambda: hidden("cv2", lambda: preparer(frame))})  # fmt: skip
    print(
        json.dumps({"what": "640x480 frame to int8 224x224, ms", **seen, "asked": "edgekit with cv2 is faster"}),
        flush=True,
    )
    boxed = ImageSteps("letterbox", convention="opencv")
    wanted = Geometry(320, 320, 3, first=False)
    seen = times({"edgekit in numpy": lambda: hidden("cv2", lambda: fit(frame, wanted, boxed)),
                  "edgekit with cv2": lambda: fit(frame, wanted, boxed)})  # fmt: skip
    say("letterbox to 320x320, ms", **seen)
    return sizes


def against_pillow() -> Times:
    """Numbers and times."""
    image = found("PIL.Image")
    if image is None:
        return {}
    modes = {"nearest": 0, "bilinear": 2, "area": 4}

    def reference(given: Any, wanted: tuple[int, int], how: str) -> Any:
        return image.fromarray(given[..., 0] if given.shape[2] == 1 else given).resize(wanted[::-1], modes[how])

    steps_off(reference, "pillow", "PIL.Image")
    return resizing("pillow", "PIL.Image", reference)


def against_librosa() -> None:
    """Log-mel and MFCC, whole clips, also with librosa's defaults; and the time of it."""
    librosa = found("librosa")
    if librosa is None:
        return
    dice = np.random.default_rng(0)
    sweep = np.sin(2 * np.pi * np.cumsum(np.linspace(100, 5000, RATE)) / RATE) * np.hanning(RATE)
    sound = (sweep / 2 + dice.normal(size=RATE) / 100).astype(np.float32)
    for frame, fft, bands, top_db, center in (
        (2048, 2048, 128, 80.0, True),
        (400, 512, 40, None, True),
        (512, 512, 64, None, False),
    ):
        common = {"n_fft": fft, "hop_length": frame // 4, "win_length": frame, "center": center, "n_mels": bands}
        mel = librosa.feature.melspectrogram(y=sound, sr=RATE, **common)
        logarithms = librosa.power_to_db(mel, top_db=top_db)
        steps = AudioSteps(rate=RATE, features="log-mel", frame=frame, hop=frame // 4, fft=fft, bands=bands,
                           center=center, top_db=top_db, convention="librosa")  # fmt: skip
        mfcc = AudioSteps(**{**vars(steps), "features": "mfcc", "coefficients": 20})
        expected = librosa.feature.mfcc(S=logarithms, n_mfcc=20)
        for name, ours, theirs in (
            ("log-mel", spectrum(sound, steps), logarithms),
            ("mfcc", spectrum(sound, mfcc), expected),
        ):
            line = {
                "what": f"{name} as librosa",
                "frame": frame,
                "worst": float(np.abs(ours.T - theirs).max()),
                "asked": 1e-3,
            }
            print(json.dumps(line), flush=True)
    steps = AudioSteps(rate=RATE, features="mfcc", frame=640, hop=320, fft=1024, bands=40, convention="librosa")
    seen = times({
        "edgekit": lambda: spectrum(sound, steps),
        "librosa": lambda: librosa.feature.mfcc(y=sound, sr=RATE, n_mfcc=13, n_fft=1024, win_length=640, hop_length=320,
                                                n_mels=40, center=False),
    })  # fmt: skip
    say("MFCC of one second, ms", **seen, asked="within 1.3 times")


def main() -> None:
    """All of it."""
    seen = against_opencv() | against_pillow()
    against_librosa()
    if "--write" in sys.argv and seen:
        from pages import put

        put("resizing", table(seen), Path(__file__).parents[1] / "docs" / "runtime.md")


if __name__ == "__main__":
    main()
