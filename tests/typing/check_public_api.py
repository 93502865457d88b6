"""Must type-check under pyright's strict mode against the installed wheel: the public names keep their types.

Not a test that runs: `make check` hands it to the type checker.
"""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import edgekit


def convert_and_run(path: Path) -> None:
    artifact = edgekit.convert(path, to="tflite", precision="int8", calibration="calib.npz")
    assert_type(artifact, edgekit.Artifact)
    model = edgekit.load("model.tflite", threads=2)
    assert_type(model, edgekit.Model)
    assert_type(edgekit.__version__, str)
    try:
        model.close()
    except edgekit.EdgeKitError as error:
        assert_type(error.code, str)
        assert_type(error.exit_code, int)
