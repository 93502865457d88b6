"""A fork does not copy an engine's threads: the child is refused, the parent goes on."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

CODE = """
import json, os, sys
import numpy as np
import edgekit

model = edgekit.load(sys.argv[1], threads=2)
feed = {"image": np.ones([1, *model.inputs[0].shape[1:]], np.float32)}
before = model.run(feed)["probs"].tolist()
receive, send = os.pipe()
child = os.fork()
if child == 0:
    said = []
    for way in (lambda: model.run(feed), lambda: model.run(feed["image"])):
        try:
            way()
            said.append("answered")
        except edgekit.EdgeKitError as error:
            said.append(error.code)
    model.close()  # must not touch the parent's engine
    anew = edgekit.load(sys.argv[1], threads=1).run(feed)["probs"].tolist() if len(sys.argv) > 2 else before
    os.write(send, json.dumps([said, anew == before]).encode())
    os._exit(0)
os.close(send)
_, status = os.waitpid(child, 0)
said = json.loads(os.read(receive, 1 << 16) or b"null")
print(json.dumps([status, said, model.run(feed)["probs"].tolist() == before]))
"""


@pytest.mark.parametrize("kind", ["int8.tflite", "fp32.onnx"])
def test_a_forked_child_is_refused_and_the_parent_goes_on(artifacts, kind):
    command = [sys.executable, "-c", CODE, str(artifacts[kind])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    status, said, parent = json.loads(done.stdout.splitlines()[-1])
    assert status == 0
    assert said == [["model-forked", "model-forked"], True]
    assert parent


END = """
import os, sys
import numpy as np
import edgekit

model = edgekit.load(sys.argv[1], threads=4)
model.run({"image": np.ones([1, *model.inputs[0].shape[1:]], np.float32)})
if os.fork() == 0:
    if sys.argv[2] == "drops":
        model.close()
        del model
    sys.exit(5)
_, status = os.wait()
print(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.parametrize("how", ["keeps", "drops"])
@pytest.mark.parametrize("kind", ["int8.tflite", "fp32.onnx"])
def test_a_forked_child_ends_as_it_wants(artifacts, kind, how):
    """An engine's destructor would wait for threads that are not there, or end the child by a signal."""
    command = [sys.executable, "-c", END, str(artifacts[kind]), how]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "5\n"


POOL = """
import os, sys
import numpy as np
import edgekit

pool = edgekit.Pool(sys.argv[1], sessions=2)
thing = np.ones((8, 8, 2), np.float32)
expected = str(pool.predict(thing))
receive, send = os.pipe()
if os.fork() == 0:
    try:
        said = pool.predict(thing)
    except edgekit.EdgeKitError as error:
        said = error.code
    pool.close()
    os.write(send, str(said).encode())
    sys.exit(0)
os.close(send)
_, status = os.wait()
print(status, os.read(receive, 1 << 16).decode(), str(pool.predict(thing)) == expected)
"""


def test_a_pool_in_a_forked_child_is_refused(artifacts):
    command = [sys.executable, "-c", POOL, str(artifacts["int8.tflite"])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "0 model-forked True\n"
