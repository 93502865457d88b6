"""The error tree and its catalogue."""

from __future__ import annotations

import ast
import pickle
from pathlib import Path

import pytest

from edgekit import errors
from edgekit.errors import EdgeKitError, explanations

ROOT = Path(__file__).resolve().parents[2]
KINDS = {kind.__name__: kind for kind in errors._descendants(EdgeKitError)}


def raised_codes() -> dict[str, list[str]]:
    """Code -> places, of every construction of an error class in the sources."""
    found: dict[str, list[str]] = {}
    for folder in ("edgekit", "converters", "runtimes", "device_profiles"):
        for file in sorted((ROOT / folder).glob("**/*.py")):
            if any(part.is_symlink() for part in [file, *file.parents]):
                continue
            for node in ast.walk(ast.parse(file.read_text())):
                if not isinstance(node, ast.Call) or not node.args:
                    continue
                place = f"{file.relative_to(ROOT)}:{node.lineno}"
                kind = _name(node.func)
                # A failure of verification becomes an error with its code; a finding of the lint is listed by its code.
                at = 0 if kind in {*KINDS, "Failure"} else 1 if kind == "Finding" and "lint" in file.name else None
                if at is not None:
                    for code in _literals(node.args[at], place):
                        found.setdefault(code, []).append(place)
    return found


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _literals(node: ast.expr, place: str) -> list[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.IfExp):
        return _literals(node.body, place) + _literals(node.orelse, place)
    if place.startswith(("edgekit/errors.py", "edgekit/child.py", "converters/verification/verdict.py")) and isinstance(
        node, ast.Name
    ):
        return []  # passes on a code that is a literal elsewhere
    pytest.fail(f"{place}: the code of an error must be a literal, so that the catalogue can be checked")


def test_every_raised_code_is_explained_and_no_explanation_is_stale():
    raised = set(raised_codes()) | {"worker-crashed", "worker-timeout", "worker-memory"}
    assert sorted(raised - set(explanations())) == [], "codes without an entry in explanations.toml"
    assert sorted(set(explanations()) - raised) == [], "entries that nothing raises"


def test_entries_say_something():
    for entry in explanations().values():
        assert entry.title, entry.code
        assert len(entry.cause) > 20, entry.code
        assert len(entry.fix) > 10, entry.code
        assert entry.example, entry.code
        assert not entry.title.endswith("."), entry.code


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_errors_survive_json_and_pickle(kind):
    error = kind("verify-noise", "too noisy", cause="because", next_step="do", figure=3)
    for copy in (errors.from_dict(error.to_dict()), pickle.loads(pickle.dumps(error))):
        assert type(copy) is kind
        assert copy.to_dict() == error.to_dict()
    assert kind.exit_code in {2, 3, 4, 5, 6, 7, 8, 70}


def test_errors_are_also_the_fitting_builtin():
    assert issubclass(errors.MissingFileError, FileNotFoundError)
    assert issubclass(errors.EngineMissingError, ImportError)
    assert issubclass(errors.FeedError, ValueError)


def test_cause_and_next_step_come_from_the_catalogue_when_not_given():
    code, entry = next(iter(explanations().items()))
    error = EdgeKitError(code, "m")
    assert (error.cause, error.next_step) == (entry.cause, entry.fix)


def test_an_unknown_class_becomes_our_own_bug():
    assert isinstance(errors.from_dict({"kind": "Exploit", "code": "x", "message": "m"}), errors.InternalError)
