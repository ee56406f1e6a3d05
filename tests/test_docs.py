"""The pages of the documentation refer to what there is."""

import re
from pathlib import Path

import pytest
from helpers import ROOT

from kdflow import tags

PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for path, anchor in LINK.findall(page.read_text()):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


@pytest.mark.parametrize("name", sorted(name for name in vars(tags) if name.endswith("_TAG")))
def test_every_tag_is_described(name: str) -> None:
    table = (ROOT / "docs" / "runs.md").read_text().partition("| tag | content |")[2]
    described = {row.split("|")[1] for row in table.partition("\n\n")[0].splitlines() if row}
    assert f"`{getattr(tags, name)}`" in " ".join(described)
