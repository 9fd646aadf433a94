"""The tables of published numbers in docs/imagenet.md are those of experiments/published.csv."""

import published
from checkout import REPOSITORY

BEGIN, END = "<!-- python scripts/published.py -->\n", "\n<!-- end -->"


def test_the_docs_have_the_rows_of_the_table() -> None:
    text = (REPOSITORY / "docs" / "imagenet.md").read_text(encoding="utf-8")
    assert text.split(BEGIN)[1].split(END)[0] == published.listing(), "put in what `python scripts/published.py` prints"
