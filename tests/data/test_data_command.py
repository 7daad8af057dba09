"""`dicap data` end to end: the true layouts, archives of the real shapes, a local server, gdown replaced at its boundary."""

import dataclasses
import json
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import gdown
import pytest
from file_server import File, FileServer
from layouts import has_layout, write_layout

from dicap.cli import main
from dicap.data.command import datasets
from dicap.data.download import RECORD
from dicap.data.named import EMBEDDED, EMBEDDED_SHIFTS, PUBLISHED, SHIFTS

DATASETS = datasets()
STEMS = [stem for stem, cls in DATASETS.items() if has_layout(cls)]
# archive of the real name -> (folder in it that holds the names, archive in it); "" = at the top
SHAPES = {
    "caltech-101.zip": ("caltech-101", "101_ObjectCategories.tar.gz"),
    "images.tar.gz": ("", ""),
    "annotations.tar.gz": ("", ""),
    "stanford_cars.zip": ("stanford_cars", ""),
    "102flowers.tgz": ("", ""),
    "food-101.tar.gz": ("food-101", ""),
    "fgvc-aircraft-2013b.tar.gz": ("fgvc-aircraft-2013b/data", ""),
    "SUN397.tar.gz": ("", ""),
    "dtd-r1.0.1.tar.gz": ("dtd", ""),
    "EuroSAT.zip": ("", ""),
    "UCF-101-midframes.zip": ("", ""),
    "imagenetv2-matched-frequency.tar.gz": ("", ""),
    "ImageNet-Sketch.zip": ("", ""),
    "imagenet-a.tar": ("", ""),
    "imagenet-r.tar": ("", ""),
}
ARCHIVED = [stem for stem in STEMS if any(s.unpack and not s.optional for s in DATASETS[stem].sources)]


def data(*words, root):
    return main(["data", *words, "--data", str(root)])


@pytest.fixture
def layout(tmp_path, monkeypatch):
    """Writes a dataset's true layout below tmp_path and makes its counts the class's."""

    def write(stem):
        monkeypatch.setattr(DATASETS[stem], "counts", write_layout(DATASETS[stem], tmp_path))
        return tmp_path / DATASETS[stem].folder

    return write


def archived(source, folder, out):
    """The archive of the real shape from what a layout has unpacked, which is removed. Returns the source with no digests."""
    top, inner = SHAPES.get(source.file, ("", source.inner))
    theirs = {ours: name for name, ours in source.rename.items()}
    names = [name for name in (*source.wanted, *source.also) if (folder / name).exists()]
    path = out / source.file
    out.mkdir(exist_ok=True)
    if inner:
        with tarfile.open(out / inner, "w:gz") as tar:
            for name in names:
                tar.add(folder / name, name)
        with zipfile.ZipFile(path, "w") as zipped:
            zipped.write(out / inner, f"{top}/{inner}")
        (out / inner).unlink()
    elif source.file.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as zipped:
            for name in names:
                for file in [folder / name, *sorted((folder / name).rglob("*"))]:
                    zipped.write(file, Path(top, theirs.get(name, name), file.relative_to(folder / name)))
    else:
        with tarfile.open(path, "w:gz" if source.file.endswith("gz") else "w") as tar:
            for name in names:
                tar.add(folder / name, str(Path(top, theirs.get(name, name))))
    for name in names:
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
    return dataclasses.replace(source, md5="", sha256="", size=0)


def test_every_archive_of_the_benchmark_has_its_shape_here():
    benchmark = [source for name in (*PUBLISHED, *SHIFTS) for source in DATASETS[name].sources]
    assert {source.file for source in benchmark if source.unpack and not source.optional} <= set(SHAPES)


@pytest.mark.parametrize("stem", STEMS)
def test_the_true_layout_is_verified(layout, tmp_path, capsys, stem):
    layout(stem)
    assert data("verify", stem, root=tmp_path) == 0
    assert " ok" in capsys.readouterr().out


@pytest.mark.parametrize(
    "stem, where", [*((stem, "folder") for stem in ARCHIVED), ("caltech101", "root"), ("imagenet_a", "root")]
)
def test_archives_put_there_by_hand_are_unpacked_to_coops_layout(layout, tmp_path, monkeypatch, capsys, stem, where):
    folder = layout(stem)
    pictures = {path.relative_to(folder) for path in folder.rglob("*.jp*g")}
    sources = [
        archived(source, folder, tmp_path if where == "root" else folder)
        if source.unpack and not source.optional
        else source
        for source in DATASETS[stem].sources
    ]
    monkeypatch.setattr(DATASETS[stem], "sources", tuple(sources))
    assert data("verify", stem, root=tmp_path) == 1
    assert data("prepare", stem, root=tmp_path) == 0, capsys.readouterr().out
    assert {path.relative_to(folder) for path in folder.rglob("*.jp*g")} == pictures
    assert all(
        (tmp_path if where == "root" else folder).joinpath(s.file).is_file()
        for s in sources
        if s.unpack and not s.optional
    )
    assert data("prepare", stem, root=tmp_path) == 0 and "there" in capsys.readouterr().out


def test_an_inner_archive_alone_is_enough(layout, tmp_path):
    folder = layout("caltech101")
    with tarfile.open(folder / "101_ObjectCategories.tar.gz", "w:gz") as tar:  # the archive that CoOp's list names
        tar.add(folder / "101_ObjectCategories", "101_ObjectCategories")
    shutil.rmtree(folder / "101_ObjectCategories")
    assert data("prepare", "caltech101", root=tmp_path) == 0


def test_an_archive_with_another_digest_is_not_unpacked(layout, tmp_path, capsys):
    folder = layout("eurosat")
    archived(DATASETS["eurosat"].sources[0], folder, folder)
    assert data("prepare", "eurosat", root=tmp_path) == 1
    out = capsys.readouterr().out
    assert "md5 is" in out and "unpack it yourself if you trust it" in out and not (folder / "2750").exists()


@pytest.fixture
def served(layout, tmp_path, monkeypatch):
    """EuroSAT at a local server and a Drive; nothing is in the data folder. Yields the server and the data folder."""
    folder = layout("eurosat")
    split = (folder / "split_zhou_EuroSAT.json").read_bytes()
    archive, listed = DATASETS["eurosat"].sources
    archive = archived(archive, folder, tmp_path / "host")
    shutil.rmtree(folder)
    with FileServer() as server:
        server.files["EuroSAT.zip"] = File((tmp_path / "host/EuroSAT.zip").read_bytes())
        archive = dataclasses.replace(archive, url=server.url("EuroSAT.zip"))
        monkeypatch.setattr(DATASETS["eurosat"], "sources", (archive, listed))

        def drive(id, output, progress, **rest):
            server.asked.append(("drive", id))
            Path(output).write_bytes(split)
            progress(len(split), len(split))

        monkeypatch.setattr(gdown, "download", drive)
        yield server, tmp_path / "data"


def test_a_dataset_is_downloaded_unpacked_and_verified(served, capsys):
    server, root = served
    assert data("download", "eurosat", root=root) == 0
    assert "no digest is known; it has sha256:" in capsys.readouterr().out
    assert sorted(path.name for path in (root / "eurosat").iterdir()) == ["2750", RECORD, "split_zhou_EuroSAT.json"]
    assert set(json.loads((root / "eurosat" / RECORD).read_text())) == {"EuroSAT.zip", "split_zhou_EuroSAT.json"}
    assert data("verify", "eurosat", root=root) == 0
    server.asked.clear()
    assert data("download", "eurosat", root=root) == 0
    assert not server.asked and capsys.readouterr().out.count(": there") == 2


def test_keep_keeps_the_archive(served):
    _, root = served
    assert data("download", "eurosat", "--keep", root=root) == 0
    assert (root / "eurosat/EuroSAT.zip").is_file() and (root / "eurosat/2750").is_dir()


def test_one_failing_source_does_not_stop_the_others(served, capsys):
    server, root = served
    server.files.clear()
    assert data("download", "eurosat", root=root) == 1
    out = capsys.readouterr().out
    assert "eurosat: FAILED: EuroSAT.zip: http://127" in out and "answers 404" in out
    assert (root / "eurosat/split_zhou_EuroSAT.json").is_file()


def test_a_hostile_archive_from_the_net_leaves_nothing(served, capsys, tmp_path):
    server, root = served
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as zipped:
        zipped.writestr("2750/../../../evil", b"x")
    server.files["EuroSAT.zip"] = File((tmp_path / "evil.zip").read_bytes())
    assert data("download", "eurosat", root=root) == 1
    assert "do not use it" in capsys.readouterr().out
    assert not (root / "eurosat/2750").exists() and not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("stem", [stem for stem in DATASETS if DATASETS[stem].sources])
def test_without_network_each_source_has_one_line_and_nothing_is_written(monkeypatch, tmp_path, capsys, stem):
    cls = DATASETS[stem]
    monkeypatch.setattr(
        cls,
        "sources",
        tuple(
            dataclasses.replace(
                source, url=source.url and "https://host.invalid/x", drive="", note=source.note or "ask"
            )
            for source in cls.sources
        ),
    )
    assert data("download", stem, root=tmp_path / "data") == 1
    lines = capsys.readouterr().out.splitlines()
    needed = [source for source in cls.sources if not source.optional]
    assert len(lines) == len(needed)
    for line, source in zip(lines, needed):
        assert (
            line.startswith(f"{stem}: FAILED: {source.file} ")
            and ("by hand" if source.manual else "is there a network") in line
        )
    assert not (tmp_path / "data").exists()


def damage_missing(folder):
    next(folder.rglob("*.jpg")).unlink()


def damage_image(folder):
    path = next(folder.rglob("*.jpg"))
    path.write_bytes(path.read_bytes()[:-50])


def damage_split(folder):
    (folder / "split_zhou_EuroSAT.json").write_text('{"train": []}')


def damage_counts(folder):
    path = folder / "split_zhou_EuroSAT.json"
    tree = json.loads(path.read_text())
    tree["test"].pop()
    path.write_text(json.dumps(tree))


@pytest.mark.parametrize(
    "damage, text",
    [
        (damage_missing, "): missing"),
        (damage_image, "truncated"),
        (damage_split, "must hold exactly"),
        (damage_counts, "not the benchmark's split"),
        (shutil.rmtree, "folder not found"),
    ],
)
def test_damage_is_named(layout, tmp_path, capsys, damage, text):
    damage(layout("eurosat"))
    layout("dtd")
    assert data("verify", "eurosat", "dtd", root=tmp_path) == 1
    out = capsys.readouterr().out
    assert any(line.startswith("eurosat: ") and text in line for line in out.splitlines())
    assert not any(line.startswith("dtd: ") for line in out.splitlines())


def test_what_lacks_is_listed(layout, tmp_path, capsys):
    (layout("eurosat") / "split_zhou_EuroSAT.json").unlink()
    assert data("verify", "eurosat", root=tmp_path) == 1
    assert f"eurosat: not in {tmp_path / 'eurosat'}: split_zhou_EuroSAT.json" in capsys.readouterr().out


def test_all_verifies_what_is_there_and_names_the_rest(layout, tmp_path, capsys):
    layout("eurosat")
    assert data("verify", "all", root=tmp_path) == 0
    absent = capsys.readouterr().out.splitlines()[-1]
    assert (
        absent.startswith("Not there: ")
        and "eurosat" not in absent
        and "ucf101" in absent
        and "imagenet_a" not in absent
    )
    shutil.rmtree(tmp_path / "eurosat")
    assert data("verify", "all", root=tmp_path) == 1


@pytest.mark.parametrize("words", [[], ["--data", "/no/such/folder"]])
def test_all_of_no_folder_is_refused(words, capsys):
    assert main(["data", "verify", "all", *words]) == 2
    assert (f"--data {words[1]} is not there" if words else "--data DIR") in capsys.readouterr().err


def test_a_terminal_gets_a_section_laid_out(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["data", "list", "eurosat"]) == 0
    out = capsys.readouterr().out
    assert "a centered satellite photo of {}." in out and "|---" not in out and "## " not in out
    assert main(["data", "list", "eurosat", "--markdown"]) == 0
    assert "|---" in capsys.readouterr().out


def test_a_path_is_verified_as_own_data(layout, tmp_path, capsys):
    pictures = layout("eurosat") / "2750"
    assert main(["data", "verify", str(pictures)]) == 0
    broken = sorted(pictures.rglob("*.jpg"))[:7]
    for path in broken:
        path.write_bytes(b"no image")
    for _ in range(2):  # with a split that is kept, and without one
        assert main(["data", "verify", str(pictures)]) == 1
        out = capsys.readouterr().out
        assert all(f"{path.name} (class " in out for path in broken) and out.count("not an image") == 7
        for kept in pictures.glob("dicap_split*"):
            kept.unlink()


@pytest.mark.parametrize("stem", ["imagenetv2", "imagenet_a"])
def test_class_names_are_copied_to_the_shifts(layout, tmp_path, stem):
    layout("imagenet")
    folder = layout(stem)
    (folder / "classnames.txt").unlink()
    assert data("prepare", stem, root=tmp_path) == 0
    assert (folder / "classnames.txt").read_bytes() == (tmp_path / "imagenet/classnames.txt").read_bytes()


@pytest.mark.parametrize("stem", [stem for stem in PUBLISHED if "split_zhou" in DATASETS[stem].split_file])
def test_a_split_is_drawn_anew_only_when_asked_and_says_so(layout, tmp_path, capsys, stem):
    folder = layout(stem)
    split = folder / DATASETS[stem].split_file
    before = split.read_bytes()
    assert data("prepare", stem, "--regenerate", root=tmp_path) == 0
    assert "move it away" in capsys.readouterr().out and split.read_bytes() == before
    split.unlink()
    assert data("prepare", stem, root=tmp_path) == 1
    assert not split.exists() and "NOT THE PUBLISHED" not in capsys.readouterr().out
    assert data("prepare", stem, "--regenerate", root=tmp_path) == 0
    assert "NOT THE PUBLISHED SPLIT" in capsys.readouterr().out
    first, drawn = (json.loads(text)["test"] for text in (before, split.read_text()))
    shuffled = stem in ("caltech101", "dtd", "eurosat", "food101", "oxford_flowers")  # no official test part
    assert shuffled or sorted(first) == sorted(drawn)


def test_prepare_says_what_is_not_there(tmp_path, capsys):
    (tmp_path / "stanford_cars").mkdir()
    assert data("prepare", "stanford_cars", "imagenet", root=tmp_path) == 1
    out = capsys.readouterr().out
    assert "`dicap data download` gets it from https://" in out and "image-net.org" in out


@pytest.mark.parametrize(
    "words", [["list", "nope"], ["download", "nope"], ["prepare", "eurosat", "nope"], ["verify", "nope"]]
)
def test_unknown_names_are_refused_with_the_list(tmp_path, capsys, words):
    assert data(*words, root=tmp_path) == 2
    error = capsys.readouterr().err
    assert "'nope'" in error and "eurosat" in error and "all" in error and not os.listdir(tmp_path)


def test_a_traceback_is_shown_when_asked(tmp_path, capsys):
    assert data("list", "nope", "--debug", root=tmp_path) == 2
    assert "Traceback" in capsys.readouterr().err


def test_list_works_offline_with_and_without_a_folder(layout, tmp_path, capsys):
    assert main(["data", "list"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in DATASETS) and "39.1 GB" in text and "There" not in text
    layout("eurosat")
    assert data("list", "eurosat", root=tmp_path) == 0
    assert capsys.readouterr().out.count("| yes |") == 2
    assert data("list", "dtd", root=tmp_path) == 0
    assert capsys.readouterr().out.count("| missing |") == 2


def test_the_document_is_made_of_the_classes(tmp_path):
    """It has all of today's, each as its class says; one that is new may wait for the command."""
    document = Path(__file__).parents[2] / "docs/datasets.md"
    then = document.read_text(encoding="utf-8")
    names = [name for name, cls in DATASETS.items() if f"\n## {cls.__name__}\n" in then]
    shutil.copy(document, tmp_path / "datasets.md")
    assert main(["data", "list", *names, "--markdown", str(tmp_path / "datasets.md")]) == 0
    now = (tmp_path / "datasets.md").read_text(encoding="utf-8")
    assert now == then, "renew it with: dicap data list --markdown docs/datasets.md"
    assert {*PUBLISHED, *SHIFTS, *EMBEDDED, *EMBEDDED_SHIFTS} <= set(names)
    assert all(f"`{DATASETS[name].template}`" in now for name in names)


def test_a_document_without_the_mark_is_left_alone(tmp_path, capsys):
    (tmp_path / "other.md").write_text("mine")
    assert main(["data", "list", "--markdown", str(tmp_path / "other.md")]) == 1
    assert "has no line" in capsys.readouterr().err and (tmp_path / "other.md").read_text() == "mine"
