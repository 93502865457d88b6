"""Where sums of 8-bit products saturate, and what is done about it: weights of 7 bits, or slower kernels.

onnxruntime multiplies unsigned activations by signed weights. On x86 without VNNI its kernels add two such products in
16 bits that saturate (PMADDUBSW): 2 x 255 x 127 is 64770, and 32767 comes out. Weights of at most 64 never get there.
Measured with onnxruntime 1.32 under emulated processors, all inputs and weights at their ends: MatMul, Gemm, Conv,
grouped Conv and MatMulInteger saturate on Haswell (AVX2), depthwise Conv does not; nothing does on Nehalem (SSE4.2),
nothing with VNNI, and nothing on Arm, whose instructions widen. By its documentation AVX-512 without VNNI does as well.
LiteRT multiplies in 16 bits everywhere.

An artifact for such a device has weights of 7 bits. One of 8 bits, made for others, is right there as well, but slower:
our runtime asks onnxruntime for the kernels that do not saturate (`session.x64quantprecision`, measured likewise).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.device_profiles import Profile
    from edgekit.options import Options
    from edgekit.precision import Precision


def weight_bits(options: Options, precision: Precision, profile: Profile | None) -> int | None:
    """Bits of the weights; None where the precision has no int8 products.

    Raises:
        UsageError: `weight-bits`: 7 were asked for where nothing saturates.
    """
    narrow = options.weight_bits == 7
    multiplies = precision.weights == "int8" and precision.activations != "int16"
    if narrow and (options.format != "onnx" or not multiplies):
        raise UsageError(
            "weight-bits", f"7-bit weights are for int8 products in onnxruntime; {precision.name} {options.format} "
            "has none that saturate"
        )  # fmt: skip
    if not multiplies:
        return None
    if options.weight_bits is None and options.format == "onnx" and profile is not None and saturates(profile):
        return 7
    return options.weight_bits or 8


def saturates(profile: Profile) -> bool:
    """Whether onnxruntime's int8 sums saturate on a device."""
    wide = profile.has("avx2") or profile.has("avx512")
    return profile.os.machine == "x86_64" and wide and not profile.has("avx_vnni")
