"""What the site makes of the pages' text: tables of CSV files, and links to files that are not in the site."""

import csv
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File

DOCS = Path(__file__).parents[1]
REPOSITORY = DOCS.parent
TABLE = re.compile(r"^\{\{ read_csv\('(.+)'\) \}\}$", re.MULTILINE)
LINK = re.compile(r"\[([^\]]*)\]\((?![a-z]+:)([^)#\s]+)(#[^)\s]*)?\)")  # to a file
IN_NOTEBOOK = re.compile(r'(?<=href=")(?!https?:)([^"#]+)\.md(?=["#])')  # a page, which mkdocs-jupyter leaves as it is
SAID = re.compile(  # to stderr by a notebook's cell: progress bars, log lines
    r'<div class="jp-OutputArea-child">\s*<div class="jp-OutputPrompt[^>]*></div>\s*'
    r'<div class="[^"]*" data-mime-type="application/vnd\.jupyter\.stderr"[^>]*>\s*<pre>.*?</pre>\s*</div>\s*</div>',
    re.DOTALL,
)
START = "index.md"  # which is README.md
log = get_plugin_logger("goc")


def on_files(files: Any, config: Any) -> None:
    """README.md is the first page."""
    files.append(File.generated(config, START, content=(REPOSITORY / "README.md").read_text(encoding="utf-8")))


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """The page's Markdown with its tables, and with links that lead somewhere from where the page is in the site."""
    place = (DOCS / page.file.src_uri).parent
    folder = REPOSITORY if page.file.src_uri == START else place

    def link(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        path = (folder / target).resolve()
        if path.is_dir() and (path / "README.md").exists():
            path /= "README.md"
        if path.is_file() and path.is_relative_to(DOCS):
            return f"[{text}]({os.path.relpath(path, place)}{anchor})"
        if not path.exists():
            log.warning("%s links to %s, which does not exist", page.file.src_uri, target)
        name = path.relative_to(REPOSITORY).as_posix()
        if config.repo_url:
            return f"[{text}]({config.repo_url.rstrip('/')}/blob/HEAD/{name}{anchor})"
        return text if name in text else f"{text} (`{name}`)"

    return LINK.sub(link, TABLE.sub(lambda match: table(folder / match[1]), markdown))


def on_page_content(content: str, page: Any, files: Any, **_: Any) -> str:
    """The HTML, with a notebook's links to pages, and without what its cells said to stderr."""
    if not page.file.src_uri.endswith(".ipynb"):
        return content

    def link(match: re.Match[str]) -> str:
        target = os.path.normpath(os.path.join(os.path.dirname(page.file.src_uri), f"{match[1]}.md"))
        if files.get_file_from_path(target) is None:
            log.warning("%s links to %s, which does not exist", page.file.src_uri, target)
        return f"{match[1]}.html"

    return IN_NOTEBOOK.sub(link, SAID.sub("", content))


def table(path: Path) -> str:
    """A CSV file as a table of Markdown, each cell as it stands; a missing one ends the build."""
    with path.open(encoding="utf-8", newline="") as file:
        head, *lines = csv.reader(file)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines))
