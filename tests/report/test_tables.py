import pandas as pd
import pytest

from goc.report.tables import latex, markdown, published, winner

POINTS = pd.DataFrame(
    {
        "series": ["none", "goc", "reuse", "goc", "l2c_goc"],
        "method": ["none", "goc", "reuse", "goc", "l2c_goc"],
        "cached": [0.0, 0.5, 0.5, 0.25, 0.22],
        "fid": [3.4, 3.9, 6.86, 3.52, 3.45],
        "fid_spread": [0.05, 0.06, 0.05, 0.04, 0.1],
        "is": [223.0, 216.0, 171.0, float("nan"), float("nan")],
        "psnr": [float("nan"), 30.0, 20.0, 40.0, 41.0],
        "macs_saved": [0.0, 0.5, 0.5, 0.25, 0.22],
        "model": "DiT-XL/2-256",
        "sampler": "ddim",
        "steps": 20,
        "cfg_scale": 1.5,
        "samples": 50000,
        "seed": "0,1,2",
        "protocol": "abcdef0123",
    }
)


def test_the_best_of_each_ratio_is_bold_unless_its_lead_is_within_the_spread() -> None:
    rows = {
        line.split("|")[1].strip() + line.split("|")[2].strip(): line
        for line in markdown(POINTS).split("###")[0].splitlines()
        if "%" in line
    }
    assert "**3.9 ± 0.06**" in rows["goc50.0 %"]
    assert "6.86 ± 0.05" in rows["reuse50.0 %"]
    # 3.52 and 3.45 are closer to each other than 0.1
    assert "**" not in rows["goc25.0 %"].split("|")[3]
    assert "**" not in rows["l2c_goc22.0 %"].split("|")[3]
    assert "**41**" in rows["l2c_goc22.0 %"]  # a spread of another column does not matter
    assert "**" not in rows["none0.0 %"]


@pytest.mark.parametrize(
    ("values", "spreads", "column", "expected"),
    [
        ([2.0, 3.0], [0.5, 0.9], "fid", 0),
        ([2.0, 3.0], [0.5, 1.1], "fid", None),
        ([2.0, 3.0], [0.5, 0.9], "is", 1),
        ([2.0, float("nan")], [0.0, 0.0], "fid", None),
        ([2.0, 2.0], [0.0, 0.0], "fid", None),
        ([2.0, 3.0], [float("nan"), float("nan")], "fid", 0),
    ],
)
def test_a_winner_leads_by_more_than_the_spread(values, spreads, column, expected) -> None:
    assert winner(pd.DataFrame({column: values, f"{column}_spread": spreads}), column) == expected


def test_measured_numbers_are_laid_beside_the_published_ones_of_the_same_protocol() -> None:
    beside = published(POINTS)
    half = beside[(beside["method"] == "goc") & (beside["cached"] == "50.0 %")].set_index("metric")
    assert half.loc["fid", "published"] == 3.907
    assert half.loc["fid", "difference"] == pytest.approx(3.9 - 3.907)
    assert half.loc["is", "published"] == 216.28
    assert set(beside["method"]) == {"none", "goc", "reuse"}  # nobody has published GOC on L2C
    assert len(beside[beside["method"] == "none"]) == 4  # FID and IS in two papers
    assert published(POINTS.assign(steps=50)).empty or "goc" not in set(published(POINTS.assign(steps=50))["method"])
    assert published(POINTS.assign(model="digits")).empty


def test_rows_of_different_protocols_stand_in_tables_of_their_own_and_the_report_says_so() -> None:
    both = pd.concat([POINTS, POINTS.assign(protocol="fedcba9876", cfg_scale=1.0)], ignore_index=True)
    text = markdown(both)
    assert "2 protocols, which differ in cfg_scale, protocol (weights, reference, ...)" in text
    assert text.count("## DiT-XL/2-256, DDIM-20") == 2
    assert "must not be compared" not in markdown(POINTS)
    assert latex(both).startswith("% 2 protocols")
    assert latex(both).count(r"\begin{tabular}") == 2


def test_latex_is_escaped_and_uses_booktabs() -> None:
    text = latex(POINTS)
    assert r"l2c\_goc & 22.0 \% & 3.45 $\pm$ 0.1" in text
    assert r"\textbf{3.9 $\pm$ 0.06}" in text
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
