"""`dicap report`: the files of a folder, the page and its cells, what is escaped, and a clear error where nothing is there."""

import csv
import io
import json
import re
from html.parser import HTMLParser

import pytest
from bad_results import BAD
from rich.console import Console

from dicap.report.report import sheets, write_report
from dicap.report.sheet import NOTHING
from dicap.report.table import gather
from dicap.results import ResultError


def write(folder, *args, **options):
    out = io.StringIO()
    paths = write_report(folder, *args, console=Console(file=out, width=160), **options)
    return {path.name: path.read_text(encoding="utf-8") for path in paths}, out.getvalue()


class Page(HTMLParser):
    """Tables of a page as (keys, rows of text), tags by name with their attributes, and every address."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.tags, self.text, self.open = {}, {}, "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.setdefault(tag, []).append(attrs)
        if tag not in ("meta", "link", "img", "wbr", "br"):
            self.open.append(tag)
        if tag == "table":
            self.keys, self.rows = self.tables.setdefault(attrs["data-sheet"], ([], []))
        elif tag == "tr" and "tbody" in self.open:
            self.rows.append([])
        elif tag == "th" and attrs.get("scope") == "col":
            self.keys.append(attrs["data-key"])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if "tbody" in self.open and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data.replace("\xa0", " ")


def shown(row, key):
    """What a cell of the page must say, from the CSV file alone."""
    digits = (
        2
        if key.startswith(("published_", "difference")) or key.endswith("_difference") or row.get("published_base")
        else 0
        if key == "peak_memory_mib"
        else 1
    )
    figures = [row[name] for part in ("_mean", "_std", "_low", "_high") if (name := f"{key}{part}") in row]
    if not figures:
        value = row[key]
        return value if not re.fullmatch(r"-?\d+(\.\d+)?", value) or key in WHOLE else f"{float(value):.{digits}f}"
    mean, *rest = (f"{float(value):{'+' if len(figures) == 3 else ''}.{digits}f}" if value else "" for value in figures)
    if key == "train_seconds" and "h" in row or not any(rest):
        return mean
    return f"{mean} [{rest[0]}, {rest[1]}]" if len(rest) == 2 else f"{mean} ± {rest[0]}"


WHOLE = ("shots", "n", "wins", "ties", "losses", "runs", "trainable_parameters", "dataset")


@pytest.fixture
def everything(three_by_two, put):
    """All protocols; the folder."""
    for method in ("CoOp", "DiCap"):
        for seed in (1, 2, 3):
            common = {"method": method, "seed": seed, "split": "all", "model": f"{method}{seed}"}
            for shots in (1, 2, 16):
                put(protocol="few_shot", shots=shots, value=50.0 + shots + seed, **common)
            put(protocol="source", dataset="causal_shapes", value=60.0 + seed, **common)
            put(protocol="cross_dataset", trained_on="causal_shapes", value=40.0 + seed, **common)
            for dataset in ("causal_shapes_noise", "causal_shapes_scenes"):
                put(
                    protocol="domain_generalization",
                    dataset=dataset,
                    trained_on="causal_shapes",
                    value=30.0 + seed,
                    **common,
                )
    return three_by_two


NAMES = ("base2new", "few_shot", "cross_dataset", "domain_generalization", "paired", "cost")


def test_three_methods_two_datasets_three_seeds_give_the_tables_and_the_page(three_by_two):
    files, terminal = write(three_by_two)
    assert set(files) == {
        "report.html",
        *(f"{name}.{form}" for name in ("base2new", "paired", "cost") for form in ("md", "csv", "json", "tex")),
    }
    assert not list(three_by_two.glob("*.tmp")) and "average of 2" in terminal and "Paired comparison" in terminal
    tree = json.loads(files["base2new.json"])
    averages = [row for row in tree["rows"] if row["datasets"]]
    assert tree["complete"] and len(tree["rows"]) == 9 and len(averages) == 3 and len(tree["results"]) == 36
    assert averages[0]["datasets"] == ["causal_shapes", "digits"]


def test_every_protocol_has_its_table_and_only_those_asked_for_are_printed(everything):
    files, terminal = write(everything, ["few_shot"])
    assert {name.split(".")[0] for name in files} == {"report", *NAMES}
    assert "Few-shot accuracy" in terminal and not re.search("Base-to-new|Cost|Paired", terminal)


def test_the_cells_of_the_page_are_those_of_the_csv_files(everything):
    files, _ = write(everything)
    page = Page(files["report.html"])
    assert tuple(page.tables) == NAMES
    for name, (keys, rows) in page.tables.items():
        lines = list(csv.DictReader(io.StringIO(files[f"{name}.csv"])))
        assert len(lines) == len(rows) > 0
        for line, row in zip(lines, rows):
            for key, cell in zip(keys, row, strict=True):
                assert cell == (shown(line, key) or NOTHING), (name, key, line)


def test_the_page_needs_nothing_else_and_says_what_it_shows(everything):
    html = write(everything)[0]["report.html"]
    page = Page(html)
    addresses = [
        attrs.get("src") or attrs.get("href")
        for tag in page.tags.values()
        for attrs in tag
        if "src" in attrs or "href" in attrs
    ]
    assert addresses and all(address.startswith(("#", "data:")) for address in addresses)
    assert "url(" not in html and "@import" not in html and "script" not in page.tags
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.tags["meta"]
    assert "prefers-color-scheme: dark" in html and page.tags["html"] == [{"lang": "en"}]
    assert len(page.tags["caption"]) == len(page.tables) and len(page.tags["img"]) >= 10
    assert all(image["alt"] and image["src"].startswith("data:image/svg+xml;base64,") for image in page.tags["img"])
    assert all(head.get("scope") in ("col", "row") for head in page.tags["th"])
    identities = [attrs["id"] for tag in page.tags.values() for attrs in tag if "id" in attrs]
    assert len(identities) == len(set(identities)) and "What ran" in page.text


def test_what_is_incomplete_unreadable_or_left_out_is_on_the_page(three_by_two, put):
    put(method="CoCoOp", seed=2)
    put(protocol="ablations/causal_shapes/ref", method="CoCoOp")
    (put(method="CoCoOp", seed=3, folder="broken") / "broken/base2new/base/digits/16/CoCoOp/tiny/tiny/seed").mkdir()
    bad = three_by_two / "broken/base2new/base/digits/16/CoCoOp/tiny/tiny/3/result.json"
    bad.write_text("{")
    files, terminal = write(three_by_two)
    page = Page(files["report.html"])
    assert (
        "Incomplete: CoCoOp (tiny) on digits, base: lacks seed 1, 3." in page.text and "not complete JSON" in page.text
    )
    assert "Left out: 1 result files of ablations." in page.text
    for name in ("base2new", "cost"):
        assert "Unreadable: " in files[f"{name}.md"] and json.loads(files[f"{name}.json"])["complete"] is False
    assert "Incomplete: CoCoOp (tiny) on average of 2, base: not complete: causal_shapes, digits." in terminal.replace(
        "\n", " "
    )


def test_an_unreadable_file_keeps_every_table_from_being_complete(three_by_two):
    assert json.loads(write(three_by_two)[0]["base2new.json"])["complete"] is True
    (three_by_two / "result.json").write_text("{")
    files, _ = write(three_by_two)
    for name in ("base2new", "paired", "cost"):
        tree = json.loads(files[f"{name}.json"])
        assert tree["complete"] is False and "not complete JSON" in tree["unreadable"][0], name


def test_bad_files_are_named_and_left_out_and_the_others_are_as_without_them(three_by_two, make_result, tmp_path):
    good, _ = write(three_by_two)
    for name, (make, _) in BAD.items():
        (tmp_path / "bad" / name).mkdir(parents=True)
        make(tmp_path / "bad" / name / "result.json", make_result(seed=9))
    (tmp_path / "bad/up").symlink_to(tmp_path)
    files, terminal = write(three_by_two)
    tree, page = json.loads(files["base2new.json"]), Page(files["report.html"])
    assert len(tree["unreadable"]) == len(BAD) and tree["rows"] == json.loads(good["base2new.json"])["rows"]
    for name, line in zip(sorted(BAD), tree["unreadable"]):
        assert f"/bad/{name}/result.json" in line and line in page.text, name
    assert {name: text for name, text in files.items() if name.endswith("csv")} == {
        name: text for name, text in good.items() if name.endswith("csv")
    }
    assert terminal.count("Unreadable: ") == len(BAD) * 3


WRONG = (None, True, -1, 1e99, "", "[/red]", ["a"], {"a": {"accuracy": 1}})


def test_no_value_anywhere_in_a_result_stops_a_report(three_by_two, make_result, tmp_path, monkeypatch):
    monkeypatch.setattr("dicap.report.report.svg", lambda plot: "")
    whole = make_result(seed=9, groups={"a": 60.0}, versions={"device": "cpu"}, method_record={"a": {"b": 1.0}})
    whole |= {"trained_on": "digits", "protocol": "cross_dataset", "split": "all"}

    def changed(tree):
        for key, value in tree.items():
            yield from ({**tree, key: wrong} for wrong in WRONG)
            if isinstance(value, dict):
                yield from ({**tree, key: other} for other in changed(value))

    results = list(changed(whole))
    assert len(results) > 300
    for i, result in enumerate(results):
        (tmp_path / f"bad/{i}").mkdir(parents=True)
        (tmp_path / f"bad/{i}/result.json").write_text(json.dumps(result))
    files, _ = write(three_by_two)
    there = len(json.loads(files["base2new.json"])["unreadable"])
    assert 100 < there < len(results)


def test_a_stale_target_is_in_no_paired_comparison(everything, put):
    put(protocol="cross_dataset", split="all", method="DiCap", seed=2, trained_on="causal_shapes", model="old")
    sheet = next(sheet for sheet in sheets(gather(everything)[0]) if sheet.name == "paired")
    (row,) = (row for row in sheet.rows if row["protocol"] == "cross_dataset")
    assert row["difference"] == "incomplete" and any(
        "cross_dataset" in problem and "seed 2" in problem for problem in sheet.problems
    )


HOSTILE = ("<script>alert(1)</script>", "[/b][1cm](x) &lt;", "a_b%$&#{}~^\\", "x|y*z`_w_")


def test_names_from_files_are_text_in_every_form(put):
    for dataset in HOSTILE:
        for method in ("CoOp", "DiCap"):
            for seed in (1, 2):
                folder = put(
                    protocol="few_shot",
                    split="all",
                    dataset=dataset,
                    method=method,
                    seed=seed,
                    folder=str(HOSTILE.index(dataset)),
                    versions={"device": "<b>"},
                )
    files, terminal = write(folder)
    page = Page(files["report.html"])
    assert all(name in terminal for name in HOSTILE)  # nothing is rich's markup
    assert "script" not in page.tags and "b" not in page.tags and all(name in page.text for name in HOSTILE)
    assert {row[0] for row in page.tables["few_shot"][1]} == {*HOSTILE, "average of 4"}
    assert (
        "| \\<script\\>alert(1)\\</script\\> |" in files["few_shot.md"]
        and "| x\\|y\\*z\\`\\_w\\_ |" in files["few_shot.md"]
    )
    assert r"| [/b][1cm\](x) \&lt; |" in files["few_shot.md"] and "\n{}[/b][1cm](x)" in files["few_shot.tex"]
    assert r"a\_b\%\$\&\#\{\}\textasciitilde{}\textasciicircum{}\textbackslash{} &" in files["few_shot.tex"]
    assert [row["dataset"] for row in csv.DictReader(io.StringIO(files["few_shot.csv"]))][:2] == sorted(HOSTILE)[:1] * 2


def test_names_in_titles_headings_and_paths_are_text_too(put):
    """And no escape sequence reaches the terminal or a file; a folder's name may be no Unicode text."""
    for target in ("[/red]", "\x1b]0;x\x07[bold]"):
        for protocol, dataset in (("source", "a[/b]"), ("cross_dataset", target)):
            common = {"trained_on": "a[/b]", "split": "all", "task": "[/i]" + "ü" * 200, "folder": "\udce9"}
            put(protocol=protocol, dataset=dataset, **common)
    folder = put(folder="\udce9/\x1b[2J") / "\udce9"
    next((folder / "\x1b[2J").rglob("result.json")).write_text("{")
    files, terminal = write(folder)
    assert "trained on a[/b]" in terminal and "[/red]" in terminal and r"\x1b]0;x\x07[bold]" in terminal
    assert all(character not in text for text in [terminal, *files.values()] for character in "\x1b\x07")
    assert r"\udce9/\x1b[2J/base2new" in files["cost.md"].replace("\\\\", "\\")


def test_nothing_there_names_what_was_looked_for_and_what_to_run(tmp_path, put):
    with pytest.raises(
        ResultError, match="base2new, few_shot, source, cross_dataset, domain_generalization.*scripts/dicap/base2new.sh"
    ):
        write_report(tmp_path)
    with pytest.raises(ResultError, match="no such folder"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(ResultError, match="1 of other protocols, 0 unreadable"):
        write_report(put(protocol="ablations/x/y"))
    assert not list(tmp_path.glob("*.html"))


def older(folder):
    """All result files of a folder as the first version of dicap wrote them."""
    for path in folder.rglob("result.json"):
        result = json.loads(path.read_text()) | {"schema": 1, "accuracy": 60.0}
        path.write_text(json.dumps({key: value for key, value in result.items() if key not in ("metrics", "measures")}))


def test_results_of_an_older_version_are_named_with_what_to_do(three_by_two, put, tmp_path):
    older(three_by_two)
    message = "0 of other protocols, 36 unreadable.*schema 1.*Give the command that made it again"
    with pytest.raises(ResultError, match=message):
        write(three_by_two)
    files, terminal = write(put(method="CoCoOp"))
    assert "schema 1, written by an older version" in files["base2new.md"] and "schema 1" in terminal
    assert files["report.html"].count("schema 1, written by an older version") >= 36
    assert len(json.loads(files["base2new.json"])["unreadable"]) == 36


def test_of_results_that_are_the_same_the_tables_are_the_same(everything):
    results = gather(everything)[0]
    first = {sheet.name: (sheet.grid, sheet.all_notes) for sheet in sheets(results)}
    assert {sheet.name: (sheet.grid, sheet.all_notes) for sheet in sheets(results[::-1])}.keys() == first.keys()
    for sheet in sheets(results[::-1]):
        assert sheet.grid == first[sheet.name][0], sheet.name
