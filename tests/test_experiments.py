"""Every experiment in experiments/, in seconds, by the command that it names itself."""

from pathlib import Path

import pandas as pd
import pytest
from conftest import REPOSITORY, Run

EXPERIMENTS = sorted((REPOSITORY / "experiments").glob("*.yaml"))
ROWS = {
    "digits_ablation": 37,  # plain reuse, and 9 lists of weights at 4 thresholds
    "digits_search": 12,
    "digits_tradeoff": 91,  # no cache once, and 18 methods at 5 ratios
    "paper_ablation": 3,
    "paper_ddim50": 7,
    "paper_l2c": 2,
    "paper_rule_based": 7,
}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_runs_by_its_own_command(run_py: Run, tmp_path: Path, path: Path) -> None:
    if path.stem == "digits_search":
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra: pip install -e '.[optuna]'")
    package, command = path.read_text().splitlines()[:2]
    assert package == "# @package _global_"
    assert command == f"# python run.py -m experiment={path.stem}"
    run_py(*command.removeprefix("# python run.py ").split(), "+smoke=true")
    folder = tmp_path / "outputs" / f"{path.stem}-smoke"
    assert len(pd.read_csv(folder / "results.csv")) == ROWS[path.stem]
    for name in ("table.md", "table.tex", "tradeoff.png", "tradeoff.svg", "tradeoff.pdf", "report.html"):
        assert (folder / name).stat().st_size > 300
