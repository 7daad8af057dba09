"""The mutations and the table of docs/method.md cannot rot: every text is still there once, every property has a test."""

import ast
import re

import mutations
import pytest

METHOD = mutations.ROOT / "docs" / "method.md"


def functions_of(file: str) -> set[str]:
    tree = ast.parse((mutations.ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("mutation", mutations.MUTATIONS, ids=lambda m: f"{m.number}-{m.what}")
def test_each_mutation_still_fits_the_code(mutation):
    text = mutations.mutated(mutation, mutations.ROOT)
    compile(text, mutation.file, "exec")
    assert text != (mutations.ROOT / mutation.file).read_text(encoding="utf-8")
    file, name = mutation.test.split("::")
    assert name in functions_of(file), f"{mutation.test} is gone"


def test_every_property_has_a_mutation():
    assert {mutation.number for mutation in mutations.MUTATIONS} == set(mutations.PROPERTIES)


def test_the_table_of_the_method_page_is_complete_and_names_tests_that_exist():
    table = METHOD.read_text(encoding="utf-8").partition("## Eighteen properties")[2]
    rows = re.findall(r"^\| (\d+) \| .*$", table, re.M)
    assert [int(number) for number in rows] == list(mutations.PROPERTIES)
    files = (mutations.ROOT / "tests").rglob("test_*.py")
    existing = set().union(*(functions_of(str(file.relative_to(mutations.ROOT))) for file in files))
    named = re.findall(r"`(test_\w+)`", table)
    assert len(named) >= len(rows) and not sorted(set(named) - existing)


def test_a_text_that_moved_is_an_error_that_names_the_mutation(tmp_path):
    mutation = mutations.MUTATIONS[0]._replace(file="code.py", old="a = 1", new="a = 2")
    for text in ("b = 1", "a = 1; a = 1"):
        (tmp_path / "code.py").write_text(text)
        with pytest.raises(mutations.MovedOn, match=f"property 1, '{mutation.what}'.*code.py.*moved on"):
            mutations.mutated(mutation, tmp_path)


@pytest.mark.parametrize(
    "status, output, said",
    [
        (0, "3 passed", "GREEN"),
        (1, "FAILED tests/a.py::test_a[0] - assert 1 == 2", "red"),
        (1, "FAILED tests/a.py::test_a - dicap.options.ConfigError: it does not fit", "red"),
        (1, "FAILED tests/a.py::test_a - NameError: name 'x' is not defined", "BROKEN"),
        (1, "ERROR tests/a.py::test_a - assert 1 == 2", "BROKEN"),
        (4, "ERROR: not found: tests/a.py::test_a", "BROKEN"),
    ],
)
def test_only_a_failed_test_is_red(status, output, said):
    assert mutations.verdict(status, output).split(":")[0] == said
