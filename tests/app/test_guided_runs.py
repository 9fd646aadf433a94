"""What guidance saves, from the command to the report."""

import json
from pathlib import Path

import pandas as pd
import pytest
from application import Run
from checkout import QUICK

from goc.report.study import main as report

pytestmark = pytest.mark.usefixtures("without_plots")

SAME = ("cfg_scale=4", "name=guided")
WAYS = {
    "none": ("method=none",),
    "interval": ("method=none", "guidance_interval=[0.3,5]"),
    "everywhere": ("method=none", "guidance_interval=[0,1000]"),
    "halves": ("method=none", "cfg_cache=0.5", "cfg_cache_predictor=linear"),
    "cached": ("method=reuse", "cache_ratio=0.5", "cfg_cache=0.5"),
}


def test_what_guidance_saves_is_priced_measured_against_full_guidance_and_named(run_here: Run, tmp_path: Path) -> None:
    folder, results, said = tmp_path / "outputs/guided", {}, {}
    for name, settings in WAYS.items():
        run = run_here(*QUICK, "steps=8", *settings, *SAME, f"hydra.run.dir=outputs/guided/{name}")
        results[name], said[name] = json.loads((folder / name / "result.json").read_text()), run.stdout
    steps = results["none"]["config"]["steps"]
    guided = steps - len(results["interval"]["guidance"]["unguided"])
    evaluations = {name: result["cost"]["evaluations"] for name, result in results.items()}
    assert 0 < guided < steps
    expected = {"none": steps, "everywhere": steps, "interval": (steps + guided) / 2}
    expected |= {"halves": 0.75 * steps, "cached": 0.375 * steps}
    assert evaluations == pytest.approx(expected)
    macs = {name: result["cost"]["gmacs_per_image"] for name, result in results.items()}
    for name in ("interval", "halves"):  # whole evaluations: exactly as many halves
        assert macs[name] == pytest.approx(macs["none"] * evaluations[name] / steps)
    assert results["everywhere"]["metrics"] == results["none"]["metrics"]
    for name in ("interval", "halves", "cached"):
        assert results[name]["distance"]["relative_l2_mean"] > 1e-3
        assert results[name]["samples"]["compared"] == results[name]["config"]["num_samples"]
    assert results["halves"]["guidance"] == {"unguided": [], "predicted": list(range(1, steps, 2))}
    assert results["cached"]["way"]["cfg_cache"] == 0.5
    assert f"{steps - guided} evaluations unguided" in said["interval"]
    assert report([str(folder)]) == 0
    table = pd.read_csv(folder / "results.csv")
    assert set(table["method"]) == {"none", "interval0.3-5", "interval0-1000", "cfg0.5linear", "reuse+cfg0.5"}
    assert "Distances are to full guidance" in (folder / "table.md").read_text()
