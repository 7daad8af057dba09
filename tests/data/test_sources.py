"""The sources of every registered dataset: well-formed, and those of torchvision where it records them."""

import inspect
import re
from pathlib import PurePosixPath

import pytest
import torchvision.datasets as tv
from layouts import STEMS

from dicap.data.command import datasets
from dicap.data.sources import ADDRESSES, Source, human

DATASETS = datasets()
SOURCES = [pytest.param(source, id=f"{name}-{source.file}") for name, cls in DATASETS.items() for source in cls.sources]


def test_every_dataset_of_the_benchmark_has_sources():
    assert set(STEMS) <= {name for name, cls in DATASETS.items() if cls.sources}


@pytest.mark.parametrize("name", DATASETS)
def test_licence_and_home_page_are_stated(name):
    cls = DATASETS[name]
    assert cls.licence and (not cls.sources or cls.homepage.startswith("https://"))


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_is_well_formed(source):
    assert not source.url or re.fullmatch(r"https://[\w.-]+/\S+", source.url)
    assert not source.drive or re.fullmatch(r"[\w-]{33}", source.drive)
    assert not (source.url and source.drive) and (not source.manual or source.note)
    assert re.fullmatch("|[0-9a-f]{32}", source.md5) and re.fullmatch("|[0-9a-f]{64}", source.sha256)
    assert source.origin in ("", *ADDRESSES) and source.recorded_by and source.size >= 0
    for name in (source.file, *source.wanted, *source.also):
        assert name and not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts
    assert set(source.rename.values()) <= set(source.wanted)


@pytest.mark.parametrize("name", [name for name in DATASETS if DATASETS[name].sources])
def test_the_sources_give_what_is_read(name):
    cls = DATASETS[name]
    given = {part for source in cls.sources if not source.optional for part in source.wanted}
    assert not cls.split_file or cls.split_file in given
    assert not cls.images or any(part.split("/")[0] == cls.images for part in given)


def recorded(name):
    """URL -> MD5 as the installed torchvision records them; "" where it has no MD5."""
    flowers = {tv.Flowers102._download_url_prefix + file: md5 for file, md5 in tv.Flowers102._file_dict.values()}
    texts = {"eurosat": inspect.getsource(tv.EuroSAT.download), "caltech101": inspect.getsource(tv.Caltech101.download)}
    known = {
        "dtd": {tv.DTD._URL: tv.DTD._MD5},
        "food101": {tv.Food101._URL: tv.Food101._MD5},
        "fgvc_aircraft": {tv.FGVCAircraft._URL: ""},
        "oxford_pets": dict(tv.OxfordIIITPet._RESOURCES),
        "oxford_flowers": flowers,
        "sun397": {tv.SUN397._DATASET_URL: tv.SUN397._DATASET_MD5},
        **{
            name: {re.search(r'"(https://\S+)"', text)[1]: re.search(r'md5="(\w+)"', text)[1]}
            for name, text in texts.items()
        },
    }
    return known.get(name, {})


@pytest.mark.parametrize(
    "name", ["caltech101", "dtd", "eurosat", "fgvc_aircraft", "food101", "oxford_flowers", "oxford_pets", "sun397"]
)
def test_addresses_and_digests_are_those_of_torchvision(name):
    known = {url.rpartition("/")[2]: (url.partition("://")[2], md5) for url, md5 in recorded(name).items()}
    ours = {source.file: source for source in DATASETS[name].sources if source.file in known}
    assert ours
    for file, source in ours.items():
        url, md5 = known[file]
        assert not md5 or source.md5 == md5
        assert source.origin == "mirror" or source.url.partition("://")[2] == url


@pytest.mark.parametrize(
    "size, text",
    [
        (0, "?"),
        (502, "502 bytes"),
        (18_293_705, "18.3 MB"),
        (94_280_567, "94.3 MB"),
        (4_996_278_331, "5.0 GB"),
        (39_077_296_924, "39.1 GB"),
        (330_960, "331.0 kB"),
        (1_500_000_000_000, "1.5 TB"),
    ],
)
def test_sizes_for_people(size, text):
    assert human(size) == text


def test_missing_is_told_by_name(tmp_path):
    source = Source("a.zip", unpack=("images", "list.txt"))
    (tmp_path / "images").mkdir()
    (tmp_path / "list.txt").write_text("")
    assert source.missing(tmp_path) == ["images", "list.txt"]  # both empty
    (tmp_path / "images/1.jpg").write_bytes(b"1")
    assert source.missing(tmp_path) == ["list.txt"]
