"""Every `dicap.x.y` that the tour and the page on architecture name is there."""

import pkgutil
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
NAMES = {
    name
    for page in ("tour.md", "architecture.md")
    for name in re.findall(r"`(dicap(?:\.\w+)+)`", (DOCS / page).read_text(encoding="utf-8"))
}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_name_of_the_pages_is_there(name):
    pkgutil.resolve_name(name)  # ImportError or AttributeError where it is not


def test_a_name_that_is_gone_is_noticed():
    assert len(NAMES) > 40
    with pytest.raises((ImportError, AttributeError)):
        pkgutil.resolve_name("dicap.trainer.LearnerTrainer.gone")
