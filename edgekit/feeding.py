"""How things become input tensors: the `[preprocess]` table of a manifest.

One table for what all kinds share, one more for each kind. A table that is left out means its defaults; what stands in
a manifest of before is read as before. `edgekit.runtimes.preprocess` does what is said here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

Convention = Literal["tensorflow", "librosa"]

MISSING_TEXTS = frozenset({"", "na", "n/a", "nan", "-nan", "+nan", "null", "none", "#n/a", "<na>"})
"""What stands for a number that is not there, in lower case; as pandas reads it, and as C prints it."""

TRUTH_TEXTS = {"true": 1.0, "false": 0.0}
"""What stands for a truth among numbers, in lower case; as pandas and JSON write it."""


@dataclass(frozen=True)
class ImageSteps:
    """How a picture gets the input's size: `[preprocess.image]`.

    Attributes:
        fit: "stretch" to the size; "letterbox": whole, in its proportions, with a border; "crop": filled, in its
            proportions, and cut at the middle.
        short: For "crop": the whole picture is first resized until its shorter side has so many pixels, and the input's
            size is then cut out of its middle, as torchvision's `Resize(256), CenterCrop(224)` do. None: what has the
            input's proportions is cut out and then resized, as `crop_to_aspect_ratio` of Keras does.
        resize: "bilinear", "bicubic", "nearest" or "area".
        convention: Whose resizing of that name. Pillow's bilinear, bicubic and area (its BOX) look at all pixels that a
            smaller picture covers; OpenCV's bilinear (INTER_LINEAR; also `tf.image.resize`) at the nearest four only,
            its bicubic at sixteen.
        border: Value (0..255) around a letterboxed picture. 114 is what the YOLO family was trained with.
        place: Where a letterboxed picture lies: "center", or "corner" for the upper left.
    """

    fit: Literal["stretch", "letterbox", "crop"] = "stretch"
    resize: Literal["bilinear", "bicubic", "nearest", "area"] = "bilinear"
    convention: Literal["pillow", "opencv"] = "pillow"
    border: int = 114
    place: Literal["center", "corner"] = "center"
    short: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.border <= 255:
            raise ValueError(f"border is {self.border}; it lies between 0 and 255")
        if self.short is not None and (self.fit != "crop" or self.short < 1):
            raise ValueError(f'short = {self.short}: a positive number of pixels, with fit = "crop"')


@dataclass(frozen=True)
class AudioSteps:
    """How a waveform becomes what the model takes: `[preprocess.audio]`.

    Attributes:
        rate: Samples a second that the model was trained with; others are resampled. None: as they come.
        samples: Length of a clip, cut or padded with silence; None: what the input's shape asks for.
        features: What is fed: the "wave" itself, the "spectrogram", "mel" bands, their logarithm "log-mel", or "mfcc".
        frame: Window length in samples. hop: Samples from one frame to the next.
        fft: Length of the transform; None: the frame's (librosa), or the next power of two (TensorFlow).
        window: "hann", "hamming" or "ones"; periodic.
        power: Exponent on magnitudes; None: 1 (TensorFlow), 2 (librosa).
        center: Frame t is centered at t * hop, with silence around the clip (librosa's default); else it begins there.
        bands: Number of mel bands. low, high: Their ends in Hz; None for `high`: half the rate.
        coefficients: How many MFCCs are kept.
        floor: TensorFlow: added before the logarithm. librosa: its `amin`, the least power.
        top_db: librosa only: what is quieter than the loudest by more is raised to it. None keeps all, and is what
            streams need, because the loudest is known only at the end.
        axes: "time-bands" or "bands-time" (librosa's).
        convention: Whose formulas. TensorFlow: `tf.signal` (HTK's mel scale, natural logarithm of mel + floor).
            librosa: `librosa.feature` (Slaney's mel scale and norm, decibels, orthonormal transform).
    """

    rate: int | None = None
    samples: int | None = None
    features: Literal["wave", "spectrogram", "mel", "log-mel", "mfcc"] = "wave"
    frame: int = 640
    hop: int = 320
    fft: int | None = None
    window: Literal["hann", "hamming", "ones"] = "hann"
    power: float | None = None
    center: bool = False
    bands: int = 40
    low: float = 0.0
    high: float | None = None
    coefficients: int = 13
    floor: float | None = None
    top_db: float | None = None
    axes: Literal["time-bands", "bands-time"] = "time-bands"
    convention: Convention = "tensorflow"

    def __post_init__(self) -> None:
        for name in ("frame", "hop", "bands", "coefficients", "rate", "samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it is at least 1")
        if self.fft is not None and self.fft < self.frame:
            raise ValueError(f"fft is {self.fft}, less than the frame of {self.frame} samples")
        if self.features in ("mel", "log-mel", "mfcc") and self.rate is None:
            raise ValueError(f"{self.features} needs the rate")
        if self.features == "mfcc" and self.coefficients > self.bands:
            raise ValueError(f"{self.coefficients} coefficients of {self.bands} bands")
        high = self.high if self.high is not None else (self.rate or 0) / 2
        if self.features in ("mel", "log-mel", "mfcc") and not 0 <= self.low < high <= (self.rate or 0) / 2:
            raise ValueError(f"the bands from {self.low:g} to {high:g} Hz do not lie below half the rate")
        if self.floor is not None and not self.floor > 0:
            raise ValueError(f"floor is {self.floor}; it is positive")
        if self.top_db is not None and self.convention != "librosa":
            raise ValueError("top_db is librosa's")


@dataclass(frozen=True)
class TableSteps:
    """How a row of named values becomes a vector: `[preprocess.table]`. `mean` and `std` apply to that vector.

    Attributes:
        columns: Names in the model's order; others in a row are ignored.
        missing: Column -> what stands in for None, "", NaN or no value; a column without an entry must be there.
        categories: Column -> its known values in order, as text; a column without an entry is a number.
        encode: A category as its "index", or as a "one-hot" of as many values as there are.
        unknown: A category that is not known: "refuse" it, or "zeros" (one-hot) and -1 (index).
    """

    columns: tuple[str, ...]
    missing: dict[str, float | str] = field(default_factory=dict)
    categories: dict[str, tuple[str, ...]] = field(default_factory=dict)
    encode: Literal["one-hot", "index"] = "one-hot"
    unknown: Literal["refuse", "zeros"] = "refuse"

    def __post_init__(self) -> None:
        if len(set(self.columns)) != len(self.columns) or not self.columns:
            raise ValueError("columns are named once each, at least one")
        for name, table in (("missing", self.missing), ("categories", self.categories)):
            strange = sorted(set(table) - set(self.columns))
            if strange:
                raise ValueError(f"{name} has {strange[0]}, which is no column")
        for column, value in self.missing.items():
            known = self.categories.get(column)
            if known is not None and str(value) not in known:
                raise ValueError(f"{value!r} stands in for a missing {column} and is none of its categories")
            if known is None and isinstance(value, str):
                raise ValueError(f"{column} is a number, {value!r} cannot stand in for it")

    @property
    def width(self) -> int:
        """Length of the vector."""
        hot = self.categories if self.encode == "one-hot" else {}
        return sum(len(hot[column]) if column in hot else 1 for column in self.columns)


@dataclass(frozen=True)
class TextSteps:
    """How text becomes numbers, a byte each (UTF-8): `[preprocess.text]`.

    Attributes:
        length: Cut or padded to it; None: what the input's shape asks for.
        pad: Value after the end. shift: Added to each byte, so that small numbers are free for marks.
        side: Which end is padded and cut.
    """

    length: int | None = None
    pad: int = 0
    shift: int = 0
    side: Literal["right", "left"] = "right"


@dataclass(frozen=True)
class Preprocess:
    """How a picture, a sound, a row or a text becomes the input tensor: value = (raw * scale - mean) / std.

    Attributes:
        kind: What is fed: a plain array, an image, a waveform, a row of named values, or text.
        scale: Factor on raw values (0..255 for images, -1..1 for waveforms).
        mean, std: One value, or one a channel, after `scale`.
        colors: Channel order of images, as the model takes them.
        image, audio, table, text: More for that kind; None for the defaults.
    """

    kind: Literal["array", "image", "waveform", "table", "text"] = "array"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    colors: Literal["RGB", "BGR", "gray"] = "RGB"
    image: ImageSteps | None = None
    audio: AudioSteps | None = None
    table: TableSteps | None = None
    text: TextSteps | None = None

    def __post_init__(self) -> None:
        if not all(self.std):
            raise ValueError("std must not be zero")
        if not all(map(math.isfinite, (self.scale, *self.mean, *self.std))) or not (self.mean and self.std):
            raise ValueError("scale, mean and std are finite numbers, and at least one each")
        for name, kind in (("image", "image"), ("audio", "waveform"), ("table", "table"), ("text", "text")):
            if getattr(self, name) is not None and self.kind != kind:
                raise ValueError(f'the table {name} is for kind = "{kind}", not "{self.kind}"')
        if self.kind == "table" and self.table is None:
            raise ValueError('kind = "table" needs [preprocess.table] with its columns')

    @property
    def identity(self) -> bool:
        """Whether scale, mean and std change nothing."""
        return self.scale == 1.0 and not any(self.mean) and all(value == 1.0 for value in self.std)
