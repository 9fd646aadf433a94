"""Names that others chose: nothing of them is a command in any format of the report."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from benchmarks.reports import make_run, result_of

from goc.report.study import main
from goc.report.text import LONGEST, csv_cell, latex_cell, markdown_cell, plot_text, printable
from goc.tracking.csv_file import track_in_csv

HOSTILE = "=cmd|' /C calc'!A0 $x_{1}^\\frac{2}$ ~&%#\nnext `<script>` \x1b[31m\u202eabc ](javascript:1) \\end{tabular}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [("plain ± é 文", "plain ± é 文"), ("a\nb\tc", "a b c"), ("\x1b[31mred", "\\x1b[31mred"),
     ("\u202egnp", "\\u202egnp"),
     ("\udc80", "\\udc80"), ("a\u2028b", "a b"), ("\x00", "\\x00")],
)  # fmt: skip
def test_a_name_is_one_printable_line(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(text).encode()


def test_a_very_long_name_keeps_its_beginning_and_its_end() -> None:
    shown = printable("a" * 10**6 + "end")
    assert len(shown) == LONGEST
    assert shown.startswith("aaa")
    assert shown.endswith("a" * 46 + "end")


@pytest.mark.parametrize("text", ["=1+1", "@sum(a)", "+cmd", "-cmd", "=", "-", "\tx", "\uff1d1", "-1+1"])
def test_a_cell_is_no_formula(text: str) -> None:
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("value", ["-0.5", "+3", "1e5", "-1.5e-3", "-1,0,1", "goc", "a=b", "", -0.5, None, [-1]])
def test_numbers_and_other_cells_stay_what_they_are(value: object) -> None:
    assert csv_cell(value) == value


def test_latex_has_no_command_of_a_name() -> None:
    assert latex_cell("\\a{b}$c^d~e_f%g&h#i ± j") == (
        r"\textbackslash{}a\{b\}\$c\textasciicircum{}d\textasciitilde{}e\_f\%g\&h\#i $\pm$ j"
    )


def test_markdown_has_no_cell_html_or_link_of_a_name() -> None:
    assert markdown_cell("a|b <i> [x](y) `z` \\") == r"a\|b \<i\> [x]\(y) \`z\` " + "\\\\"
    assert markdown_cell("goc, w [1.0] (2) l2c_goc") == "goc, w [1.0] (2) l2c_goc"


def test_a_plot_draws_dollars_and_names_with_an_underscore() -> None:
    assert plot_text("$x$ _a") == r"\$x\$ _a"
    assert plot_text("_hidden") == " _hidden"
    assert max(map(len, plot_text("long " * 30).splitlines())) <= 60


@pytest.mark.slow
def test_a_study_of_hostile_names_is_reported_in_every_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        folder = tmp_path / f"\x1b[31m{number}"
        result = make_run(folder, number, 20)
        result["config"]["model"] |= {"name": f"{HOSTILE}{number % 2}", "family": HOSTILE}
        result["config"]["sampler"] = HOSTILE
        result["method"] = f"{HOSTILE}{number}" if number else "none"
        (folder / "result.json").write_text(json.dumps(result))
        track_in_csv(folder)
    (tmp_path / "\x1b[31mbad").mkdir()
    (tmp_path / "\x1b[31mbad" / "error.txt").write_text(f"{HOSTILE}\nTraceback")
    (tmp_path / "\x1b[31mbad" / "result.json").write_text("{")
    assert main([str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out.replace(str(tmp_path), "") + shown.err
    assert "\u202e" not in shown.out + shown.err
    for name in ("results.csv", "tradeoff.csv", "tracked.csv"):
        rows = list(csv.reader((tmp_path / name).read_text().splitlines()))
        assert len(rows) == 5
        assert {len(row) for row in rows} == {len(rows[0])}
        assert not [cell for row in rows for cell in row if cell[:1] in tuple("=+@")]
    tex = (tmp_path / "table.tex").read_text()
    assert not re.search(r"(?<!\\)[$^~]|\\frac|\\end\{tabular\}.*&", re.sub(r"^%.*", "", tex, flags=re.MULTILINE))
    assert tex.count(r"\begin{tabular}") == len(re.findall(r"^\\end\{tabular\}$", tex, re.MULTILINE))
    lines = [line for line in (tmp_path / "table.md").read_text().splitlines() if line.startswith("|")]
    cells = {len(re.split(r"(?<!\\)\|", line)) for line in lines}
    assert len(lines) >= 6
    assert len(cells) <= 2  # a table for each measurement
    page = (tmp_path / "report.html").read_text()
    assert page.count("</script") == 3
    assert (tmp_path / "tradeoff.pdf").stat().st_size > 1000
    frame = pd.read_csv(tmp_path / "results.csv")
    assert np.allclose(sorted(frame["fid"]), sorted(result_of(number, 20)["metrics"]["fid"] for number in range(4)))
