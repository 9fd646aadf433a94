"""hydra/sweeper=optuna: a search for settings with a low FID at few MACs."""

import json
from pathlib import Path
from typing import Any

import pytest
from application import Run
from checkout import QUICK
from omegaconf import OmegaConf

from goc.cli.application import objectives

pytestmark = pytest.mark.usefixtures("without_plots")


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        (None, 3.5),  # Hydra's own sweeper
        ("minimize", 3.5),
        (OmegaConf.create(["minimize", "minimize"]), (3.5, 0.25)),
    ],
)
def test_a_sweeper_is_told_as_many_numbers_as_it_has_directions(direction: Any, expected: Any) -> None:
    cost = {"gmacs_per_image": 0.25}
    assert objectives({"metrics": {"fid": 3.5}, "cost": cost}, direction) == expected
    assert objectives({"metrics": {"fid": None}, "cost": cost}, direction) is None
    assert objectives({"metrics": {}, "cost": cost}, direction) is None


def test_a_search_reports_the_trials_that_no_other_beats_and_can_be_given_again(run_here: Run, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra: pip install -e '.[optuna]'")
    search = ("-m", "experiment=digits_search", "hydra.sweeper.n_trials=3", *QUICK)
    finished = run_here(*search)
    folder = tmp_path / "outputs" / "digits_search"
    results = [json.loads(path.read_text()) for path in folder.glob("*/result.json")]
    assert len(results) == 3
    assert len({result["config"]["gradient_weights"][0] for result in results}) > 1
    points = {(result["metrics"]["fid"], result["cost"]["gmacs_per_image"]) for result in results}
    best = {
        (fid, macs)
        for fid, macs in points
        if not any(f <= fid and m <= macs and (f, m) != (fid, macs) for f, m in points)
    }
    report = (folder / "optimization_results.yaml").read_text()
    assert {tuple(solution["values"]) for solution in OmegaConf.create(report)["solutions"]} == best
    assert "Number of Pareto solutions" in finished.stdout

    again = run_here(*search)
    assert (folder / "optimization_results.yaml").read_text() == report
    assert "img/s" not in again.stderr  # the same suggestions, and nothing was made again


def test_a_failed_trial_does_not_end_a_search(run_here: Run, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra: pip install -e '.[optuna]'")
    failing = ("hydra.sweeper.n_trials=2", "hydra.sweeper.params.cache_ratio=1.5")
    finished = run_here("-m", "experiment=digits_search", *failing, *QUICK, check=False)
    assert finished.returncode == 1
    assert "2 failed:" in finished.stderr
    assert "Traceback" not in finished.stderr
