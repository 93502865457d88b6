"""Documentation that could drift: generated pages are as generated, and every command shown is one that exists."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from edgekit import metadata
from edgekit.cli import cli

ROOT = Path(__file__).resolve().parents[2]
SHOWN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", generator().PAGES)
def test_pages_are_as_generated(name):
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == generator().PAGES[name](), (
        "run: python docs/generate.py"
    )


def shown_commands() -> list[str]:
    found = []
    for page in SHOWN:
        text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))
        found += re.findall(r"^\s+(edgekit [a-z].*)$", text, re.MULTILINE)
    return found


def test_commands_and_options_that_are_shown_exist():
    lines = shown_commands()
    assert len(lines) > 20
    for line in lines:
        words = shlex.split(re.split(r"\s+#\s|&&|\s->\s|   ", line)[0])[1:]
        command: click.Command = cli
        context = click.Context(cli)
        while isinstance(command, click.Group):
            inner = command.get_command(context, words[0])
            assert inner is not None, line
            command = inner
            words = words[1:]
        known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {
            "--help",
            "--",
        }
        assert {word for word in words if word.startswith("-")} <= known, line


def test_files_that_are_linked_exist():
    for page in SHOWN:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def blocks(language: str) -> list[tuple[str, str]]:
    """Page and text of the code blocks in that language."""
    found = []
    for page in SHOWN:
        text = page.read_text(encoding="utf-8")
        found += [
            (page.name, block) for block in re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        ]
    return found


def test_metadata_that_is_shown_is_accepted():
    tables = [(page, tomllib.loads(block)) for page, block in blocks("toml")]
    feeding = [(page, table) for page, table in tables if {"preprocess", "interpret"} & set(table)]
    assert len(feeding) > 4
    for page, table in feeding:
        said = metadata.read(table, None, None)
        assert said != metadata.Metadata(), page


def test_python_that_is_shown_is_python():
    shown = blocks("python")
    assert len(shown) > 4
    for page, block in shown:
        compile(block, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_names_that_are_shown_exist():
    shown = []
    for page, block in blocks("python"):
        tree = compile(block, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "edgekit":
                shown += [(page, node.module, alias.name) for alias in node.names]
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "edgekit":
                shown.append((page, "edgekit", node.attr))
    assert len(shown) > 20
    for page, module, name in shown:
        assert hasattr(importlib.import_module(module), name), f"{page}: {module}.{name}"
