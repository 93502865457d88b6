"""The kernels of the networks that published latencies name, rebuilt from their published layer lists.

What a layer does to time depends on its sizes only, so that no weights are needed. `NETS[name](precision)` gives the
kernels that `edgekit.predict.plan` finds in the TFLite file of the same network; `python benchmarks/latency_nets.py`
compares MACs, depthwise MACs and activation traffic with model-facts.csv.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import latency_detectors as detectors
from latency_classifiers import (
    LITES,
    efficientnet_lite,
    inception_resnet_v2,
    inception_v4,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3,
    resnet50,
    vgg16,
)

from edgekit.predict.work import Kernel

TABLE = Path(__file__).resolve().parents[2] / "shared" / "data" / "model-facts.csv"


def _nets() -> dict[str, Callable[[str], list[Kernel]]]:
    found: dict[str, Callable[[str], list[Kernel]]] = {}
    for side in (128, 160, 192, 224):
        for width in (0.25, 0.5, 0.75, 1.0):
            found[f"mobilenet_v1_{width}_{side}"] = lambda p, w=width, s=side: mobilenet_v1(p, w, s)
    for width, sides in {
        0.35: (96, 128, 160, 192, 224), 0.5: (96, 128, 160, 192, 224), 0.75: (96, 128, 160, 192, 224),
        1.0: (96, 128, 160, 192, 224, 320), 1.3: (224,), 1.4: (224,),
    }.items():  # fmt: skip
        for side in sides:
            found[f"mobilenet_v2_{width}_{side}"] = lambda p, w=width, s=side: mobilenet_v2(p, w, s)
    for size in ("large", "small"):
        for width in (0.75, 1.0):
            found[f"mobilenet_v3_{size}_{width}_224"] = lambda p, z=size, w=width: mobilenet_v3(p, z, w)
        found[f"mobilenet_v3_{size}_minimalistic_1.0_224"] = lambda p, z=size: mobilenet_v3(p, z, 1.0, minimal=True)
    for number in LITES:
        found[f"efficientnet_lite{number}"] = lambda p, n=number: efficientnet_lite(p, n)
    for name in detectors.DETS:
        found[f"efficientdet_lite{name}"] = lambda p, n=name: detectors.efficientdet(p, n)
    found |= {
        "ssd_mobilenet_v1_300": lambda p: detectors.ssd(p, "v1"),
        "ssd_mobilenet_v1_0.75_300": lambda p: detectors.ssd(p, "v1", width=0.75),
        "ssd_mobilenet_v2_300": lambda p: detectors.ssd(p, "v2", box=3),
        "ssd_mobilenet_v2_quant_300": lambda p: detectors.ssd(p, "v2"),
        "ssdlite_mobilenet_v2_300": lambda p: detectors.ssd(p, "v2", lite=True),
        "resnet50_v1.5_224": resnet50,
        "resnet50_v1_224": lambda p: resnet50(p, newer=False),
        "resnet50_v1_299": lambda p: resnet50(p, newer=False, side=299),
        "vgg16_224": vgg16,
        "inception_v4_299": inception_v4,
        "inception_resnet_v2_299": inception_resnet_v2,
        "ssd_mobilenet_v1_coral": lambda p: detectors.ssd(p, "v1"),
        "ssd_mobilenet_v3_large_320": lambda p: detectors.ssd_v3(p, "large"),
        "ssd_mobilenet_v3_small_320": lambda p: detectors.ssd_v3(p, "small"),
        "ssdlite_mobilenet_edgetpu_320": detectors.ssd_edgetpu,
        "ssdlite_mobiledet_cpu_320": detectors.mobiledet_cpu,
        "ssdlite_mobiledet_edgetpu_320": detectors.mobiledet_edgetpu,
        "ssd_mobilenet_v1_fpn_640": lambda p: detectors.pyramid(p, "v1"),
        "ssd_resnet50_v1_fpn_640": lambda p: detectors.pyramid(p, "resnet"),
    }
    return found


NETS = _nets()


def main() -> int:
    """Beside the table of facts: the relative differences."""
    worst = 0.0
    for row in csv.DictReader(TABLE.read_text(encoding="utf-8").splitlines()):
        if row["model"] not in NETS:
            continue
        kernels = NETS[row["model"]]("fp32")
        macs = sum(kernel.macs for kernel in kernels) / 1e6
        depthwise = sum(kernel.units.get("depthwise", 0.0) for kernel in kernels) / 1e6
        traffic = sum(kernel.units.get("traffic", 0.0) + kernel.units.get("map", 0.0) for kernel in kernels) / 4e6
        line = {
            "model": row["model"],
            "macs": macs / float(row["macs_m"]) - 1,
            "kernels": len(kernels),
            "n_ops": row["n_ops"],
        }
        if float(row["dw_macs_m"] or 0):
            line["depthwise"] = depthwise / float(row["dw_macs_m"]) - 1
        if row["act_rw_m"]:
            line["traffic"] = traffic / float(row["act_rw_m"]) - 1
        worst = max(worst, abs(line["macs"]))
        print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()}))
    print(json.dumps({"worst_macs": round(worst, 4)}))
    return 0 if worst < 0.02 else 1


if __name__ == "__main__":
    sys.exit(main())
