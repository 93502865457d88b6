"""Where the examples' frames and sounds come from: files, or what is plugged in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

IMAGES = (".jpg", ".jpeg", ".png", ".bmp")


def frames(source: str) -> Iterator[Any]:
    """Pictures: of a folder, of a file, of an `.npz` of frames, or of a camera ("camera", "camera:1"), without end.

    Cameras: picamera2 on a Raspberry Pi, else OpenCV; both give RGB here.
    """
    if source.startswith("camera"):
        yield from _camera(int(source.partition(":")[2] or 0))
        return
    path = Path(source)
    if path.suffix == ".npz":
        yield from np.load(path)["x"]
    elif path.is_dir():
        yield from sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGES)
    else:
        yield path


def _camera(number: int) -> Iterator[Any]:
    try:
        from picamera2 import Picamera2
    except ModuleNotFoundError:
        import cv2

        camera = cv2.VideoCapture(number)
        while True:
            there, frame = camera.read()
            if not there:
                raise OSError(f"camera {number} gives no frames") from None
            yield frame[..., ::-1]
    camera = Picamera2(number)
    camera.configure(camera.create_video_configuration(main={"format": "BGR888", "size": (640, 480)}))  # RGB in memory
    camera.start()
    while True:
        yield camera.capture_array()


def chunks(source: str, rate: int, seconds: float = 0.1) -> Iterator[tuple[Any, int]]:
    """Samples in -1..1 and their rate: of a WAV file, or of the microphone ("microphone"), without end.

    The microphone: `pip install sounddevice`.
    """
    if source != "microphone":
        from edgekit.runtimes.preparation.sounds import read_sound

        sound = read_sound(Path(source))
        step = int(seconds * (sound.rate or rate))
        for start in range(0, len(sound.samples), step):
            yield sound.samples[start : start + step], sound.rate or rate
        return
    import sounddevice

    with sounddevice.InputStream(samplerate=rate, channels=1, dtype="float32") as stream:
        while True:
            samples, _ = stream.read(int(seconds * rate))
            yield samples[:, 0], rate
