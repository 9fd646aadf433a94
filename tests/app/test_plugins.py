"""Other people's methods and metrics: installed packages, and modules named by plugins=[...]."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from application import ONE_AFTER_THE_OTHER, Run
from checkout import QUICK, REPOSITORY, run_environment
from refusals import assert_refused
from warm import WarmProcess

from goc.system.errors import ConfigError
from goc.system.registry import Options, Registry

EXAMPLE = REPOSITORY / "docs" / "examples" / "plugin"
NETWORK = REPOSITORY / "docs" / "examples" / "network"
MINE = """
from dataclasses import dataclass
from goc.plugin import *
@schedule
@dataclass
class Mine(ScheduleConfig):
    "Every other step."
    name: str = "mine"
    def follows_ratio(self): return False
    def mask(self, situation):
        import torch
        mask = torch.zeros(situation.steps, situation.depth, 2, dtype=torch.bool)
        mask[1::FACTOR] = True
        return mask
@selection
@dataclass
class First(SelectionConfig):
    "The first tokens."
    name: str = "first"
    def build(self, partial):
        import torch
        from goc.caching.selection import Norm
        class FirstTokens(Norm):
            def scores(self, block, held):
                return -torch.arange(held.shape[1]).float().expand(held.shape[:2])
        return FirstTokens(partial.mask, torch.full(partial.mask.shape[:2], 0.25))
def brightness(images): return images.float().flatten(1).mean(dim=1) * SCALE
metric("brightness", Metric((higher("brightness", "brightness", "mean pixel"),), "mean pixel",
                            score=__name__ + ":brightness"), __name__)
from omegaconf import OmegaConf
from goc.system.files import CONF
digits = OmegaConf.to_container(OmegaConf.load(CONF / "model" / "digits.yaml"))
model("twin", Model({**digits, "name": "twin"}, sampler="unipc"), __name__)
"""


def result_of(folder: Path, method: str) -> dict[str, Any]:
    (path,) = folder.glob(f"outputs/*/{method}*/result.json")
    return dict(json.loads(path.read_text()))


def test_a_name_is_entered_once_and_can_be_typed() -> None:
    registry: Registry[int] = Registry("metrics")
    registry.add("mine", 1, "goc_mine")
    registry.add("mine", 2, "goc_mine")  # the same module again, as after a reload
    assert (registry["mine"], registry.plugin_of("mine"), registry.plugin_of("other")) == (2, "goc_mine", None)
    with pytest.raises(ConfigError, match="metrics=mine: is there twice, in goc_mine and in goc_yours"):
        registry.add("mine", 1, "goc_yours")
    for name in ("", "my metric", "a/b", "µ", "1st"):
        with pytest.raises(ConfigError, match="must be letters, digits and underscores"):
            registry.add(name, 1, "goc_mine")
    assert Options("schedule").plugin_of("uniform") is None


def test_a_named_module_is_loaded_in_every_process_of_a_sweep(run_apart: Run, tmp_path: Path) -> None:
    source = MINE.replace("FACTOR", "2").replace("SCALE", "1")
    (tmp_path / "my_module.py").write_text(source)
    settings = ("plugins=[my_module]", *QUICK, "metrics=[fid,brightness]", "predictor=reuse", "name=own")
    run_apart("-m", "hydra/launcher=local", "schedule=mine", *settings)
    (row,) = pd.read_csv(tmp_path / "outputs" / "own" / "tradeoff.csv").to_dict("records")
    assert row["method"] == "mine+reuse"
    assert 1 < row["brightness"] < 255
    assert row["brightness_se"] > 0
    first = result_of(tmp_path, "mine")
    assert first["config"]["files"]["schedule=mine"] == first["plugins"]["my_module"]

    told = "metrics of my_module are left out, as it is not loaded"
    for named, expected in (("", True), ("my_module", False)):
        environment = {**run_environment(), "GOC_PLUGINS": named}
        report = WarmProcess(["goc report", "outputs/own"], tmp_path, environment, "goc.report.study")
        shown, said = report.communicate()
        assert report.returncode == 0, said
        assert (told in shown, "brightness" in shown) == (expected, not expected)

    # another metric: measured again in the same folder
    run_apart("schedule=none", *settings)
    before = result_of(tmp_path, "none")["metrics"]["brightness"]
    (tmp_path / "my_module.py").write_text(source.replace("* 1", "* 3"))
    run_apart("schedule=none", *settings)
    assert result_of(tmp_path, "none")["metrics"]["brightness"] == pytest.approx(3 * before)
    # another schedule: another run
    (tmp_path / "my_module.py").write_text(source.replace("1::2", "1::3"))
    run_apart("schedule=mine", "model=twin", *settings)
    assert len(list(tmp_path.glob("outputs/own/mine*"))) == 2
    # and a selection of tokens: named, told apart, and paid for
    run_apart("schedule=mine", "selection=first", *settings)
    (chosen,) = (json.loads(path.read_text()) for path in tmp_path.glob("outputs/own/mine+reuse+first*/result.json"))
    assert chosen["config"]["files"]["selection=first"] == chosen["plugins"]["my_module"]
    assert chosen["cost"]["evaluations"] < chosen["cost"]["macs_evaluations"]
    (twin,) = tmp_path.glob("outputs/own/mine*unipc*/result.json")
    assert json.loads(twin.read_text())["config"]["model"]["name"] == "twin"


BROKEN = {
    "no such module": ("nowhere", "", "plugins=.nowhere.: cannot be imported: ModuleNotFoundError"),
    "no module's name": ("a/b", "", "plugins=.a/b.: must be the name of a module"),
    "a syntax error": ("broken", "def", "plugins=.broken.: cannot be imported: SyntaxError"),
    "a name that is taken": (
        "broken",
        MINE.replace('"mine"', '"uniform"').replace("FACTOR", "2"),
        "error: schedule=uniform: is there twice, in goc.methods.\\w+ and in broken",
    ),
    "nothing of ours": ("os", "", "plugins=.os.: enters no method, solver or metric"),
    "no mask": (
        "broken",
        MINE.replace("return mask", "return mask[1:]").replace("FACTOR", "2"),
        "schedule=mine: its mask must be torch.bool .5, 12, 2. with nothing cached .*, not torch.bool .4, 12, 2.",
    ),
    "a mask without a first step": (
        "broken",
        MINE.replace("mask[1::FACTOR]", "mask[:]"),
        "schedule=mine: its mask must be .* in step 0, not one that caches there",
    ),
    "a metric of the wrong shape": (
        "broken",
        MINE.replace("FACTOR", "2").replace(".mean(dim=1) * SCALE", ""),
        "metrics=brightness: gave .12, 64. for 12 images; must be one number each",
    ),
}


@pytest.mark.parametrize("case", BROKEN.values(), ids=BROKEN.keys())
def test_a_plugin_that_does_not_work_is_one_line(case: tuple[str, str, str], run_apart: Run, tmp_path: Path) -> None:
    module, source, line = case
    (tmp_path / "broken.py").write_text(source)
    chosen = "schedule=mine" if "mask" in line else "method=none"
    finished = run_apart(f"plugins=['{module}']", chosen, *QUICK, "metrics=[fid,brightness]", check=False)
    assert_refused(finished, line)


def test_the_example_is_a_package_that_installs_and_runs(tmp_path: Path) -> None:
    lines = [path.read_text().splitlines() for path in (EXAMPLE / "pyproject.toml", *EXAMPLE.glob("goc_example/*.py"))]
    assert sum(map(len, lines)) < 60
    shutil.copytree(EXAMPLE, tmp_path / "source")  # setuptools builds in its source
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", tmp_path / "site", tmp_path / "source"], check=True, capture_output=True)
    environment = {**run_environment(), "PYTHONPATH": f"{tmp_path / 'site'}:{REPOSITORY}"}

    run = ["method=deep_blocks", "schedule.share=0.25", *QUICK, "metrics=[fid,contrast]"]
    lines = (
        ["--help"],
        ["schedule=deep_blocks", "schedule.shar=0.5"],
        ["schedule=deep_blocks", "schedule.share=0"],
        run,
    )
    command = [sys.executable, "-c", ONE_AFTER_THE_OTHER, json.dumps(lines)]
    finished = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    codes = [line.split()[1] for line in finished.stdout.splitlines() if line.startswith("ended ")]
    assert codes == ["0", "1", "1", "0"], finished.stderr
    assert "deep_blocks" in finished.stdout.partition("ended 0")[0]
    assert "error: schedule.shar=0.5: no such setting; did you mean schedule.share?" in finished.stderr
    assert "error: schedule.share=0.0: must be in (0, 1]" in finished.stderr
    assert "contrast" in finished.stdout.rpartition("ended 1")[2]
    result = result_of(tmp_path, "deep_blocks")
    assert result["cost"]["cache_ratio"] == pytest.approx(0.25 * 0.5, abs=0.1)
    assert result["metrics"]["contrast_se"] > 0
    assert result["config"]["files"]["schedule=deep_blocks"].startswith("0.1.0-")


RANDOM = "import torch, goc_plain.network as n; torch.save(n.Plain(8, 1, 10, 6).state_dict(), 'plain.pt')"


def test_a_network_of_its_own_is_swept_and_reported(run_apart: Run, tmp_path: Path) -> None:
    shutil.copytree(NETWORK / "goc_plain", tmp_path / "goc_plain")
    sys.path.insert(0, str(tmp_path))
    try:
        exec(RANDOM.replace("'plain.pt'", repr(str(tmp_path / "plain.pt"))), {})
    finally:
        sys.path.remove(str(tmp_path))
        for name in [name for name in sys.modules if name.partition(".")[0] == "goc_plain"]:
            del sys.modules[name]
    settings = ("plugins=[goc_plain]", "model=plain", *QUICK, "name=plain")
    run_apart("-m", "method=none,reuse,goc,taylorseer,teacache", *settings)
    rows = pd.read_csv(tmp_path / "outputs" / "plain" / "tradeoff.csv").set_index("method")
    assert {*rows.index} == {"none", "reuse", "goc", "taylorseer", "teacache"}
    cached = rows.drop("none")
    assert (cached["gmacs"] < rows.loc["none", "gmacs"]).all()
    assert (cached["relative_l2"] > 0).all()
    result = result_of(tmp_path, "goc")
    assert result["config"]["model"]["network"] == "goc_plain.network:Plain"
    assert (tmp_path / "outputs" / "plain" / "report.html").exists()

    source = tmp_path / "goc_plain" / "network.py"
    source.write_text(source.read_text().replace("nn.GELU()", "nn.SiLU()"))
    run_apart("method=goc", *settings)  # the same weights in another network: another run, of another measurement
    first, second = (json.loads(path.read_text()) for path in tmp_path.glob("outputs/plain/goc*/result.json"))
    assert first["config"]["files"]["model.network"] != second["config"]["files"]["model.network"]
    assert first["measurement"]["network"] != second["measurement"]["network"]
    assert first["metrics"]["fid"] != second["metrics"]["fid"]
