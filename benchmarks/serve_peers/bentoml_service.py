"""The model in BentoML: the protocol's body as the parameters of an API, onnxruntime with one thread."""

from __future__ import annotations

import os
from typing import Any

import bentoml
import numpy as np
import onnxruntime


@bentoml.service(workers=1, traffic={"timeout": 60})
class Onnx:
    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(os.environ["MODEL"], options)

    @bentoml.api(route="/v2/models/model/infer")
    def infer(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        feeds = {one["name"]: np.array(one["data"], np.float32).reshape(one["shape"]) for one in inputs}
        names = [one.name for one in self._session.get_outputs()]
        outputs = [
            {"name": name, "shape": list(array.shape), "datatype": "FP32", "data": array.ravel().tolist()}
            for name, array in zip(names, self._session.run(names, feeds), strict=True)
        ]
        return {"model_name": "model", "outputs": outputs}
