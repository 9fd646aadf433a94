"""The table of digits_rivals: a way's numbers stand in the column of as many evaluations, or say how many they have."""

import digits_rivals as study
import pandas as pd


def ran(method: str, kind: str, steps: int, evaluations: float, distance: float) -> dict[str, object]:
    return {"method": method, "kind": kind, "solver": f"{kind}-{steps}", "evaluations": evaluations,
            "converged": distance, "converged_se": 0.001, "fid": 2.0, "fid_se": None}  # fmt: skip


def test_ways_are_rows_and_evaluations_that_are_others_are_said() -> None:
    rows = [ran("none", "DDIM", 5, 5, 0.3), ran("none", "DDIM", 10, 10, 0.1), ran("none", "DDIM(learned)", 5, 5, 0.2),
            ran("taylorseer", "DDIM", 20, 6, 0.1), ran("taylorseer", "DDIM", 20, 5, 0.15),
            ran("taylorseer", "DDIM", 20, 11, 0.05)]  # fmt: skip
    table = study.pivot(pd.DataFrame(rows))
    assert table["way"].tolist() == ["taylorseer on DDIM-20", "DDIM(learned)", "DDIM"]
    assert table["to converged, 5"].tolist() == ["0.1500(10)", "0.2000(10)", "0.3000(10)"]
    assert table["to converged, 10"].tolist() == ["0.0500(10) (11)", "", "0.1000(10)"]
    assert table["FID, 10"].tolist() == ["2 (11)", "", "2"]
