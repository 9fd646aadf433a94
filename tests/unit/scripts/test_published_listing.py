"""docs/published.md and its tables are the rows of experiments/published.csv."""

from pathlib import Path

import published
from checkout import REPOSITORY


def test_the_docs_have_the_rows_of_the_table(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    published.write(tmp_path)
    written = [path.relative_to(tmp_path) for path in tmp_path.rglob("*.*")]
    docs = REPOSITORY / "docs"
    assert {path.name for path in written} == {"published.md", *(path.name for path in docs.glob("tables/published-*"))}
    for path in written:
        assert (docs / path).read_text(encoding="utf-8") == (tmp_path / path).read_text(encoding="utf-8"), (
            "write them by `python scripts/published.py`"
        )
