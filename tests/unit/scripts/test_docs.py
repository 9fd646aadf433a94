"""The pages: short, with links that lead somewhere, and tables that are files. `make docs` builds the site of them."""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkout import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
NOTEBOOKS = sorted(DOCS.glob("notebooks/*.ipynb"))
WITH_LINKS = [*sorted(REPOSITORY.glob("*.md")), *PAGES, *NOTEBOOKS, *sorted((REPOSITORY / "goc").rglob("*.md"))]
CODE = re.compile(r"^```.*?^```$|^    .*?$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
TABLE = re.compile(r"^\{\{ read_csv\('(.+)'\) \}\}$", re.MULTILINE)


def named(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def text_of(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return text


def anchors(path: Path) -> set[str]:
    """The headings of a page, as GitHub and the site name them in links."""
    heads = re.findall(r"^#+ (.+)$", CODE.sub("", text_of(path)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def tables() -> Iterator[tuple[Path, Path]]:
    """Pages and the tables that they show."""
    for page in PAGES:
        for name in TABLE.findall(text_of(page)):
            yield page, page.parent / name


@pytest.mark.parametrize("page", WITH_LINKS, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target, anchor in LINK.findall(CODE.sub("", text_of(page))):
        path = page.parent / target if target else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(f"{target}#{anchor}")
    assert broken == []


def test_the_site_has_every_page() -> None:
    wanted = [*PAGES, *NOTEBOOKS]
    in_nav = set(re.findall(r"[\w/-]+\.(?:md|ipynb)", (DOCS / "site" / "mkdocs.yml").read_text(encoding="utf-8")))
    names = {page.relative_to(DOCS).as_posix() for page in wanted if not page.is_relative_to(DOCS / "examples")}
    assert names - in_nav == set()


def test_no_page_is_long() -> None:
    assert {named(page): lines for page in PAGES if (lines := len(text_of(page).splitlines())) > 200} == {}


def test_tables_are_files_that_a_page_shows_and_links_to() -> None:
    linked = {(page.parent / target).resolve() for page in PAGES for target, _ in LINK.findall(text_of(page))}
    assert set(DOCS.glob("tables/*.csv")) - linked == set()
    for page, table in tables():
        assert f"](tables/{table.name})" in text_of(page), f"{named(page)} links to its tables, for readers of the file"
        with table.open(encoding="utf-8", newline="") as file:
            assert len({len(line) for line in csv.reader(file)}) == 1, named(table)


def test_pages_that_code_and_messages_name_exist() -> None:
    missing = {
        f"{named(path)}: {page}"
        for folder in ("goc", "experiments", "scripts", "conf", "tests", "hydra_plugins")
        for path in (REPOSITORY / folder).rglob("*.*")
        if path.suffix in (".py", ".yaml", ".html") and path.name != Path(__file__).name
        for page in re.findall(r"docs/[\w/-]+\.(?:md|png|csv)", path.read_text(encoding="utf-8"))
        if not (REPOSITORY / page).exists()
    }
    assert missing == set()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=named)
def test_a_notebook_is_kept_without_outputs(notebook: Path) -> None:
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs"), f"{named(notebook)}: the site runs it"
