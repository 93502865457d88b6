"""Which versions of the engines run on which cores: each wheel on emulated boards, with a tiny and with given models.

    python benchmarks/engine_versions.py onnxruntime 1.21.0 1.32.0 [--profile raspberry-pi-4b ...] [--model FILE ...]

Prints one JSON line a version, board and model; `outcome` is "ok" or the code of the error, with its message.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from edgekit.errors import EdgeKitError
from edgekit.targets import agent, emulator, systems, tasks

PROFILES = ("raspberry-pi-3b", "raspberry-pi-4b", "raspberry-pi-5")


def main() -> None:
    """Measure what the command line asks for; each version's system is removed afterwards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("distribution")
    parser.add_argument("versions", nargs="+")
    parser.add_argument("--profile", nargs="+", default=PROFILES)
    parser.add_argument("--model", nargs="+", type=Path, default=[])
    asked = parser.parse_args()
    for version in asked.versions:
        names = [f"{profile}+{asked.distribution}=={version}" for profile in asked.profile]
        before = {system.name for system in systems.installed()}
        for name in names:
            for model, outcome, message in tried(name, asked.distribution, asked.model):
                line = {"engine": asked.distribution, "version": version, "board": name.split("+")[0]}
                line |= {"model": model, "outcome": outcome, "message": message}
                sys.stdout.write(json.dumps(line) + "\n")
                sys.stdout.flush()
        for system in systems.installed():
            if system.name not in before:
                systems.remove(system.name)


def tried(name: str, distribution: str, models: list[Path]) -> list[tuple[str, str, str]]:
    """(model, outcome, message) of each model on one emulated board."""
    try:
        _, engines = emulator.setup(name, lambda _: None)
    except EdgeKitError as error:
        return [("", error.code, error.message)]
    found = [("tiny", "ok" if e.ok else "broken", e.detail) for e in engines if distribution.endswith(e.name)]
    for model in models:
        try:
            seen = tasks.verify(agent.Opening(str(model)), target=f"emulator:{name}")
            found.append((model.name, "ok" if seen.passed else "other answers", "; ".join(seen.failures)))
        except EdgeKitError as error:
            found.append((model.name, error.code, error.message))
    return found


if __name__ == "__main__":
    main()
