"""Sounds: files, rates, features as TensorFlow and librosa compute them, and chunks that give what the whole gives."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import wave

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import DataError, FeedError, UsageError
from edgekit.feeding import AudioSteps, Preprocess
from edgekit.runtimes.preparation.audio import Listener, shaped, sound_array
from edgekit.runtimes.preparation.resampling import Resampler, resample
from edgekit.runtimes.preparation.sounds import Sound, as_sound, read_sound, sound_of
from edgekit.runtimes.preparation.spectra import Spectrum, frames_of, mel_matrix, samples_of, spectrum
from edgekit.runtimes.preprocess import prepare
from edgekit.tensors import TensorSpec

RATE = 16000
SPEECH = (
    np.sin(2 * np.pi * np.cumsum(np.linspace(100, 5000, RATE)) / RATE) * np.hanning(RATE)
    + np.random.default_rng(0).normal(size=RATE) / 50
).astype(np.float32) / 2
MFCC = AudioSteps(rate=RATE, features="mfcc", frame=640, hop=320, low=20, high=4000, coefficients=10)
SOUND = TensorSpec("sound", (None, 49, 10, 1), "float32")


def riff(path, coding, bits, values, channels=1, *, extensible=False, before=b"", lie=0):
    """A WAV file written by hand; `values` in its own type."""
    data = values.tobytes()
    head = struct.pack("<HHIIHH", 0xFFFE if extensible else coding, channels, RATE, RATE * channels * bits // 8,
                       channels * bits // 8, bits)  # fmt: skip
    if extensible:
        head += struct.pack("<HHI", 22, bits, 0) + struct.pack("<H", coding) + b"\0" * 14
    chunks = (
        b"fmt " + struct.pack("<I", len(head)) + head + before + b"data" + struct.pack("<I", lie or len(data)) + data
    )
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
    return path


@pytest.mark.parametrize("extensible", [False, True])
def test_wav_files_of_floats_and_integers(tmp_path, extensible):
    real = SPEECH[:999]
    path = tmp_path / "a.wav"
    np.testing.assert_array_equal(read_sound(riff(path, 3, 32, real, extensible=extensible)).samples, real)
    found = read_sound(riff(path, 3, 64, real.astype(np.float64), extensible=extensible))
    np.testing.assert_array_equal(found.samples, real)
    assert found.rate == RATE
    short = np.rint(real * 32767).astype("<i2")
    np.testing.assert_array_equal(read_sound(riff(path, 1, 16, short, extensible=extensible)).samples, short / 32768)


def test_wav_files_with_other_chunks_and_sizes_that_lie(tmp_path):
    real = SPEECH[:100]
    odd = b"LIST" + struct.pack("<I", 3) + b"abc\0"
    for size in (0, 0xFFFFFFFF):
        found = read_sound(riff(tmp_path / "a.wav", 3, 32, real, before=odd, lie=size)).samples
        np.testing.assert_array_equal(found, real)
    stereo = np.stack([real, -real / 2], axis=1)
    np.testing.assert_allclose(read_sound(riff(tmp_path / "a.wav", 3, 32, stereo, 2)).samples, real / 4, atol=1e-7)


@pytest.mark.parametrize("size", [0, 36])
def test_what_was_never_finished_is_read_to_its_end(tmp_path, size):
    """The sizes of a writer that was killed, or could not go back in a pipe: nothing, or that nothing is there."""
    real = SPEECH[:100]
    data = bytearray(riff(tmp_path / "a.wav", 3, 32, real).read_bytes())
    data[4:8], data[40:44] = struct.pack("<I", size), bytes(4)
    (tmp_path / "a.wav").write_bytes(data)
    np.testing.assert_array_equal(read_sound(tmp_path / "a.wav").samples, real)


def test_a_sound_of_nothing_is_no_silence(tmp_path):
    path = riff(tmp_path / "a.wav", 3, 32, SPEECH[:0])
    path.write_bytes(path.read_bytes()[:4] + struct.pack("<I", 48) + path.read_bytes()[8:] + b"LIST\4\0\0\0abcd")
    with pytest.raises(DataError, match="no samples"):
        read_sound(path)
    with pytest.raises(FeedError, match="no samples"):
        sound_array(Sound(SPEECH[:0], RATE), TensorSpec("x", (1, 100), "float32"), Preprocess("waveform"))


def test_a_pipe_is_read(tmp_path):
    """It does not seek past what is not needed."""
    real = SPEECH[:100]
    odd = b"LIST" + struct.pack("<I", 70_001) + b"abc" + bytes(69_999)
    data = riff(tmp_path / "a.wav", 3, 32, real, before=odd).read_bytes()
    code = "import sys; sys.stdout.buffer.write(open(sys.argv[1], 'rb').read())"
    told = subprocess.Popen([sys.executable, "-c", code, tmp_path / "a.wav"], stdout=subprocess.PIPE)
    with told:
        np.testing.assert_array_equal(sound_of(told.stdout, "the pipe").samples, real)
    for cut in range(len(data) - 70_100, len(data) - 400, 9_973):
        with pytest.raises(DataError):
            sound_of(io.BytesIO(data[:cut]), "what was cut")


def test_bytes_are_no_samples():
    with pytest.raises(FeedError, match="not bytes") as caught:
        Sound(b"abcd", RATE)
    assert "frombuffer" in caught.value.next_step


@pytest.mark.parametrize("broken", [b"", b"RIFF", b"RIFF\0\0\0\0WAVE", b"RIFF\0\0\0\0WAVEdata\4\0\0\0abcd", b"OggS" * 9,
                                    b"RIFF\0\0\0\0WAVEfmt \4\0\0\0abcd"])  # fmt: skip
def test_what_is_no_wav_file(tmp_path, broken):
    (tmp_path / "a.wav").write_bytes(broken)
    with pytest.raises(DataError) as caught:
        read_sound(tmp_path / "a.wav")
    assert caught.value.code == "data-unreadable"
    with pytest.raises(DataError, match="coding 6"):
        read_sound(riff(tmp_path / "a.wav", 6, 8, np.zeros(4, np.uint8)))


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 60))
def test_bytes_that_look_like_a_wav_file_are_read_or_refused(tmp_path_factory, noise, at):
    path = tmp_path_factory.getbasetemp() / "noise.wav"
    whole = riff(path, 1, 16, np.arange(9, dtype="<i2")).read_bytes()
    path.write_bytes(whole[:at] + noise + whole[at + len(noise) :])
    try:
        assert read_sound(path).samples.dtype == np.float32
    except DataError as error:
        assert error.code == "data-unreadable"


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000])
def test_rates_as_scipy_resamples(rate):
    signal = pytest.importorskip("scipy.signal")
    sound = SPEECH[:3000]
    found = resample(sound, rate, RATE)
    if rate == RATE:
        assert found is sound
        return
    shared = np.gcd(rate, RATE)
    expected = signal.resample_poly(sound.astype(np.float64), RATE // shared, rate // shared)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5)


def cut(sound, sizes):
    """Chunks of these sizes, over and over."""
    at, turn = 0, 0
    while at < len(sound):
        yield sound[at : at + sizes[turn % len(sizes)]]
        at, turn = at + sizes[turn % len(sizes)], turn + 1


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 900), min_size=1, max_size=5), st.sampled_from([8000, 44100, 48000, 16001]))
def test_resampled_chunks_are_the_whole_exactly(sizes, rate):
    sound = SPEECH[:2500]
    resampler = Resampler(rate, RATE)
    parts = [resampler.push(chunk) for chunk in cut(sound, sizes)]
    np.testing.assert_array_equal(np.concatenate([*parts, resampler.finish()]), resample(sound, rate, RATE))


def tensorflow_features(samples, steps):
    tf = pytest.importorskip("tensorflow")
    windows = {
        "hann": tf.signal.hann_window,
        "hamming": tf.signal.hamming_window,
        "ones": tf.ones,
    }
    spectrogram = tf.abs(tf.signal.stft(samples, steps.frame, steps.hop, steps.fft, window_fn=windows[steps.window]))
    if steps.power:
        spectrogram **= steps.power
    if steps.features == "spectrogram":
        return spectrogram.numpy()
    mel = spectrogram @ tf.signal.linear_to_mel_weight_matrix(
        steps.bands, spectrogram.shape[-1], steps.rate, steps.low, steps.high or steps.rate / 2
    )
    if steps.features == "mel":
        return mel.numpy()
    logarithms = tf.math.log(mel + 1e-6)
    if steps.features == "log-mel":
        return logarithms.numpy()
    return tf.signal.mfccs_from_log_mel_spectrograms(logarithms)[..., : steps.coefficients].numpy()


@pytest.mark.parametrize("rate", [1, 7, 8000, 11025, 44100, 96000])
def test_of_a_long_sound_only_what_is_needed_is_resampled(rate):
    sound = np.random.default_rng(rate).standard_normal(3000).astype(np.float32)
    whole = resample(sound, rate, 160 if rate < 100 else RATE)
    for most in (1, 5, 400, len(whole)):
        found = resample(sound, rate, 160 if rate < 100 else RATE, most)
        np.testing.assert_array_equal(found[:most], whole[:most])
        assert len(found) <= len(whole)


def test_a_sound_does_not_grow_without_end():
    """A file says its rate itself: 119 GiB before."""
    endless = Sound(np.zeros(1_000_000, np.float32), 1)
    cut = Preprocess("waveform", audio=AudioSteps(rate=RATE, samples=RATE))
    assert prepare(endless, (TensorSpec("x", (None, RATE), "float32"),), cut)["x"].shape == (RATE,)
    free = Preprocess("waveform", audio=AudioSteps(rate=RATE))
    with pytest.raises(DataError, match="would become"):
        prepare(endless, (TensorSpec("x", (None, None), "float32"),), free)


@pytest.mark.parametrize(
    "steps",
    [
        MFCC,
        AudioSteps(rate=RATE, features="log-mel", frame=400, hop=160, bands=64, low=125, high=7500),
        AudioSteps(rate=RATE, features="mel", frame=256, hop=128, fft=512, window="hamming", power=2),
        AudioSteps(rate=RATE, features="spectrogram", frame=255, hop=128, window="ones"),
    ],
    ids=["mfcc", "log-mel", "mel", "spectrogram"],
)
def test_features_as_tensorflow_computes_them(steps):
    found, expected = spectrum(SPEECH, steps), tensorflow_features(SPEECH, steps)
    assert found.shape == expected.shape
    assert len(found) == frames_of(RATE, steps)
    assert np.abs(found - expected).max() <= 1e-3 * max(
        1.0, np.abs(expected).max() if steps.features != "mfcc" else 1.0
    )


def librosa_mel(samples, steps):
    """`librosa.feature.melspectrogram`, written out in float64: pad, window, transform, square, Slaney's triangles."""
    padded = np.pad(samples.astype(np.float64), steps.fft // 2)
    left = (steps.fft - steps.frame) // 2
    window = np.pad(
        0.5 - 0.5 * np.cos(2 * np.pi * np.arange(steps.frame) / steps.frame), (left, steps.fft - steps.frame - left)
    )
    starts = range(0, len(padded) - steps.fft + 1, steps.hop)
    power = np.abs(np.fft.rfft([padded[s : s + steps.fft] * window for s in starts])) ** 2
    to_mel = np.vectorize(lambda f: f * 3 / 200 if f < 1000 else 15 + 27 * np.log(f / 1000) / np.log(6.4))
    to_hertz = np.vectorize(lambda m: m * 200 / 3 if m < 15 else 1000 * 6.4 ** ((m - 15) / 27))
    edges = to_hertz(np.linspace(to_mel(steps.low), to_mel(steps.high or steps.rate / 2), steps.bands + 2))
    bins = np.linspace(0, steps.rate / 2, steps.fft // 2 + 1)
    bank = np.array(
        [np.interp(bins, edges[b : b + 3], [0, 2 / (edges[b + 2] - edges[b]), 0]) for b in range(steps.bands)]
    )
    return power @ bank.T


@pytest.mark.parametrize("top_db", [None, 80.0, 20.0])
def test_features_by_librosas_formulas(top_db):
    """`benchmarks/preparation.py` asks librosa itself."""
    steps = AudioSteps(rate=RATE, features="log-mel", frame=400, hop=160, fft=512, center=True, bands=32,
                       convention="librosa", top_db=top_db)  # fmt: skip
    expected = 10 * np.log10(np.maximum(librosa_mel(SPEECH, steps), 1e-10))
    if top_db:
        expected = np.maximum(expected, expected.max() - top_db)
    np.testing.assert_allclose(spectrum(SPEECH, steps), expected, atol=1e-3)
    fft = pytest.importorskip("scipy.fft")
    mfcc = AudioSteps(**{**vars(steps), "features": "mfcc", "coefficients": 20})
    np.testing.assert_allclose(spectrum(SPEECH, mfcc), fft.dct(expected, norm="ortho")[:, :20], atol=1e-3)


def test_equal_energy_of_slaneys_bands():
    steps = AudioSteps(rate=RATE, features="mel", frame=2048, fft=2048, bands=20, convention="librosa")
    assert mel_matrix(steps).sum(axis=0) * RATE / 2048 == pytest.approx(np.ones(20), rel=0.05)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 3000), min_size=1, max_size=5), st.sampled_from(["tensorflow", "librosa"]), st.booleans()
)
def test_features_in_chunks_are_those_of_the_whole_exactly(sizes, convention, center):
    steps = AudioSteps(rate=RATE, features="mfcc", frame=480, hop=160, fft=512, center=center, convention=convention)
    made = Spectrum(steps)
    parts = [made.push(chunk) for chunk in cut(SPEECH[:8000], sizes)]
    np.testing.assert_array_equal(np.concatenate([*parts, made.finish()]), spectrum(SPEECH[:8000], steps))


@pytest.mark.parametrize("rate", [None, 48000])
def test_a_listener_gives_the_windows_of_the_whole(rate):
    how = Preprocess("waveform", scale=1.0, mean=(-3.0,), std=(2.0,), audio=MFCC)
    heard = SPEECH if rate is None else np.tile(SPEECH, 3)
    listener = Listener(how, SOUND, every=0.1, rate=rate)
    found = [tensor for chunk in cut(np.tile(heard, 2), [777, 1600]) for tensor in listener.push(chunk)]
    # A filter looks ahead: what it makes of the end needs the silence behind, which a stream does not have.
    whole = np.tile(heard, 2) if rate is None else resample(np.tile(heard, 2), rate, RATE)
    assert len(found) >= 9
    for number, tensor in enumerate(found):
        begin = number * 1600
        expected = prepare(Sound(whole[begin : begin + samples_of(49, MFCC)], RATE), (SOUND,), how)["sound"]
        np.testing.assert_array_equal(tensor[0], expected)


def test_a_listener_to_the_wave_itself():
    wave_input = TensorSpec("sound", (1, 4000), "float32")
    listener = Listener(Preprocess("waveform", audio=AudioSteps(rate=RATE)), wave_input, every=0.125)
    shorts = np.rint(SPEECH * 32767).astype(np.int16)
    found = [tensor[0] for chunk in cut(shorts, [500]) for tensor in listener.push(chunk)]
    assert len(found) == 1 + (RATE - 4000) // 2000
    np.testing.assert_array_equal(found[3], shorts[6000:10000] / np.float32(32768))


def test_what_cannot_be_streamed():
    for steps in (
        AudioSteps(rate=RATE, features="log-mel", convention="librosa", top_db=80.0),
        AudioSteps(rate=RATE, features="log-mel", center=True),
        AudioSteps(features="spectrogram"),
    ):
        with pytest.raises(UsageError) as caught:
            Listener(Preprocess("waveform", audio=steps), SOUND)
        assert caught.value.code == "stream-whole"


def test_sounds_of_other_lengths_and_rates_reach_the_tensor(tmp_path):
    how = Preprocess("waveform", audio=MFCC)
    path = riff(tmp_path / "a.wav", 3, 32, SPEECH)
    expected = spectrum(SPEECH, MFCC)[..., None]
    np.testing.assert_array_equal(prepare(path, (SOUND,), how)["sound"], expected)
    np.testing.assert_array_equal(prepare(np.append(SPEECH, SPEECH), (SOUND,), how)["sound"], expected)
    np.testing.assert_array_equal(prepare(SPEECH[:5000], (SOUND,), how)["sound"][:14], expected[:14])
    double = np.repeat(SPEECH, 2)
    np.testing.assert_allclose(
        prepare(Sound(resample(SPEECH, RATE, 32000), 32000), (SOUND,), how)["sound"][2:40, :2],
        expected[2:40, :2],
        atol=0.5,
    )
    assert prepare(Sound(double, 32000), (SOUND,), how)["sound"].shape == (49, 10, 1)


def test_all_forms_of_a_sound_are_prepared_alike(tmp_path):
    how = Preprocess("waveform", audio=MFCC)
    expected = spectrum(SPEECH, MFCC)[..., None]
    file = riff(tmp_path / "a.wav", 3, 32, SPEECH).read_bytes()
    for thing in (SPEECH[:, None], np.stack([SPEECH, SPEECH], 1), SPEECH.tolist(), file, io.BytesIO(file)):
        np.testing.assert_array_equal(prepare(thing, (SOUND,), how)["sound"], expected)
    narrow = TensorSpec("sound", (None, 49, 8), "float32")
    tensor = np.ones((49, 8), np.float32)
    assert prepare(tensor, (narrow,), how)["sound"].shape == (49, 8)  # features, not a sound of 8 channels


def test_what_is_no_sound_is_told_how_to_become_one(tmp_path):
    how = Preprocess("waveform", audio=MFCC)
    (tmp_path / "a.mp3").write_bytes(b"ID3")
    alaw = riff(tmp_path / "a.wav", 6, 8, np.zeros(8, np.uint8))
    for thing, kind in ((tmp_path / "a.mp3", DataError), (alaw, DataError), (b"no sound", FeedError)):
        with pytest.raises(kind) as caught:
            prepare(thing, (SOUND,), how)
        assert "ffmpeg" in caught.value.next_step
    with pytest.raises(FeedError) as said:
        prepare((SPEECH, RATE), (SOUND,), how)
    assert said.value.code == "feed-dtype"


def test_features_take_the_shape_of_the_input():
    features = np.arange(6, dtype=np.float32).reshape(3, 2)
    time, bands = AudioSteps(features="spectrogram"), AudioSteps(features="spectrogram", axes="bands-time")
    for shape, steps in (((1, 3, 2), time), ((None, 3, 2, 1), time), ((1, 1, 3, 2), time), ((1, None, 2), time),
                         ((1, 2, 3), bands), ((1, 1, 2, None), bands), ((1, 6), time)):  # fmt: skip
        found = shaped(features, TensorSpec("x", shape, "float32"), steps)
        assert all(want in (None, size) for want, size in zip(shape[1:], found.shape, strict=True))
        np.testing.assert_array_equal(found.reshape(-1), (features if steps is time else features.T).reshape(-1))
    for shape in ((1, 2, 3), (1, 5), (1, 3, 3), (1, 3, 2, 2)):
        with pytest.raises(FeedError) as caught:
            shaped(features, TensorSpec("x", shape, "float32"), time)
        assert caught.value.code == "feed-shape"


def test_waves_given_as_arrays():
    spec = TensorSpec("x", (1, 4), "float32")
    shorts = np.array([0, 16384, -32768, 8192], np.int16)
    np.testing.assert_array_equal(as_sound(shorts, spec).samples, [0, 0.5, -1, 0.25])
    np.testing.assert_array_equal(as_sound(np.array([128, 0, 255], np.uint8), spec).samples, [0, -1, 127 / 128])
    np.testing.assert_array_equal(
        as_sound(np.tile(shorts, 3).repeat(2).reshape(-1, 2), spec).samples[:4], [0, 0.5, -1, 0.25]
    )
    for strange, code in (
        (np.zeros((2, 2, 2)), "feed-shape"),
        (np.array(["a"]), "feed-dtype"),
        (np.zeros(4, np.int64), "feed-dtype"),
    ):
        with pytest.raises(FeedError) as caught:
            as_sound(strange, spec)
        assert caught.value.code == code


def test_the_standard_librarys_files_are_read(tmp_path):
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(np.array([1, -1], "<i2").tobytes())
    found = read_sound(tmp_path / "a.wav")
    assert found.rate == 8000
    np.testing.assert_array_equal(found.samples, np.array([1, -1], np.float32) / 32768)


def test_sound_array_of_a_raw_wave_is_cut():
    spec = TensorSpec("x", (1, 6), "float32")
    steps = Preprocess("waveform", audio=AudioSteps(rate=8000, samples=4))
    np.testing.assert_array_equal(sound_array(Sound(np.ones(9, np.float32), 8000), spec, steps), [1, 1, 1, 1, 0, 0])


def test_a_sound_is_made_of_whatever_holds_one():
    shorts = np.array([-32768, 0, 16384], np.int16)
    stereo = np.array([[0.5, -0.5], [1, 0]], np.float32)
    cases = ((shorts, [-1, 0, 0.5]), (stereo, [0, 0.5]), ([0.25, 1], [0.25, 1]), (stereo[:, :1], [0.5, 1]))
    for heard, expected in cases:
        sound = Sound(heard, np.int64(RATE))
        np.testing.assert_array_equal(sound.samples, np.array(expected, np.float32))
        assert (sound.samples.dtype, sound.rate) == (np.float32, RATE)
    assert Sound(SPEECH, 16000.0).rate == RATE
    assert Sound(SPEECH, None).samples is SPEECH
    for samples in (np.zeros((2, 500)), np.zeros(()), np.zeros((9, 2, 1)), [[1, 2], [3]], ["a"]):
        with pytest.raises(FeedError, match="Sound is fed") as refused:
            Sound(samples, RATE)
        assert refused.value.code in ("feed-shape", "feed-dtype")
    for rate in (0, -1, 44100.5, float("nan"), float("inf"), "fast"):
        with pytest.raises(UsageError, match="rate of a sound") as caught:
            Sound(SPEECH, rate)
        assert caught.value.code == "option-value"


WAVE = TensorSpec("sound", (None, 1600), "float32")
AS_IT_IS = Preprocess("waveform", audio=AudioSteps(rate=RATE, samples=1600))


def test_a_listener_mixes_channels_as_predict_does():
    stereo = np.stack([SPEECH, np.zeros_like(SPEECH)], axis=1)
    expected = prepare(stereo[:1600], (WAVE,), AS_IT_IS)["sound"]
    for heard in (stereo, np.rint(stereo * 32767).astype(np.int16)):
        listener = Listener(AS_IT_IS, WAVE, every=0.1)
        found = [tensor[0] for chunk in np.split(heard[:4800], [0, 5, 7, 1000]) for tensor in listener.push(chunk)]
        assert len(found) == 3
        np.testing.assert_allclose(found[0], expected, atol=1e-4)
    with pytest.raises(FeedError) as caught:
        Listener(AS_IT_IS, WAVE).push(np.zeros((9, 9, 1)))
    assert caught.value.code == "feed-shape"


def test_a_listener_takes_what_nobody_iterates_over():
    listener = Listener(AS_IT_IS, WAVE, every=0.1)
    listener.push(SPEECH[:1600])
    (found,) = listener.push(SPEECH[:0])
    np.testing.assert_array_equal(found[0], SPEECH[:1600])


@pytest.mark.parametrize("wrong", [{"every": 0}, {"every": -1}, {"every": float("nan")}, {"rate": 0}])
def test_a_listener_that_makes_no_sense(wrong):
    with pytest.raises(UsageError) as caught:
        Listener(AS_IT_IS, WAVE, **wrong)
    assert caught.value.code == "option-value"
