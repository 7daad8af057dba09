"""dicap/data is below what uses it: it imports neither runs nor reports nor datasets, and its modules form no circle."""

import ast
import graphlib
from pathlib import Path

import pytest

import dicap.data

FILES = sorted(Path(dicap.data.__path__[0]).glob("*.py"))


def imported(file):
    """Modules of dicap that a file imports anywhere, also in a function."""
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    names = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    names |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {name for name in names if name.startswith("dicap.")}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_nothing_above_is_imported(file):
    above = {name.split(".")[1] for name in imported(file)} & {"experiments", "report", "trainers", "datasets", "cli"}
    assert not above


def test_no_circle():
    graph = {f"dicap.data.{file.stem}": imported(file) for file in FILES}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError
