"""compile=auto and graphs=auto: what they come to is a matter of the settings and the device, and never of the time."""

import pytest
import torch
from composing import config_of

from goc.config import automatic, flat, identity, run_id
from goc.models.dit import DiT
from goc.system.errors import ConfigError

LONG = ("model=dit_xl_2_256", "vae=ema", "num_samples=50000", "cfg_scale=1.5", "precision=bf16")


@pytest.fixture
def on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(automatic, "is_cuda", lambda device: device != "cpu")
    monkeypatch.setattr(automatic, "lacks", lambda: "")


def test_on_a_cpu_a_run_is_not_compiled_unless_that_is_said_and_keeps_its_folder() -> None:
    auto = config_of(*LONG, "device=cpu")
    assert auto.execution.compile is False
    assert auto.chosen["compile"].startswith("false, as that is only known to pay on CUDA")
    assert run_id(auto) == run_id(config_of(*LONG, "compile=false")) != run_id(config_of(*LONG, "compile=true"))


def test_on_a_card_a_long_run_is_the_compiled_one(on_a_card: None) -> None:
    auto = config_of(*LONG)
    assert auto.execution.compile is True
    assert auto.chosen["compile"] == (
        "true, as the run has 2.4e+17 multiply-accumulate operations without a cache, and compiling pays from 1e+17 on"
    )
    assert flat(auto) == flat(config_of(*LONG, "compile=true"))
    assert run_id(auto) == run_id(config_of(*LONG, "compile=true"))
    assert config_of(*LONG, "compile=false").execution.compile is False


def test_operations_are_the_models_own_count(on_a_card: None) -> None:
    with torch.device("meta"):
        model = DiT.published("DiT-XL/2")
    exact = model.macs.forward
    assert automatic.evaluation_macs(config_of(*LONG).measurement, 7) == 7 * 2 * exact
    assert automatic.evaluation_macs(config_of(*LONG, "cfg_scale=1.0").measurement, 7) == 7 * exact


@pytest.mark.parametrize("settings", [(*LONG, "num_samples=2000"), ("num_samples=50000",), (*LONG, "device=cpu")])
def test_a_short_run_is_not_compiled(on_a_card: None, settings: tuple[str, ...]) -> None:
    config = config_of(*settings)
    assert config.execution.compile is False
    assert config.chosen["compile"].startswith("false, as ")
    assert run_id(config) == run_id(config_of(*settings, "compile=false"))


def test_without_what_compiling_needs_a_long_run_is_not_compiled(
    on_a_card: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(automatic, "lacks", lambda: "a C compiler")
    config = config_of(*LONG)
    assert config.execution.compile is False
    assert config.chosen["compile"] == "false, as torch.compile needs a C compiler on a GPU"


def test_networks_that_are_not_ours_are_compiled_only_where_that_is_said(on_a_card: None) -> None:
    config = config_of(*LONG)
    config.measurement.model.network = "module:Class"
    refused = automatic.unasked("cuda", config.measurement)
    assert refused is not None
    assert refused[0] is False


@pytest.mark.parametrize(("typed", "compiled"), [("true", True), ("yes", True), ("1", True), ("off", False)])
def test_what_was_typed_before_auto_is_typed_still(typed: str, compiled: bool) -> None:
    config = config_of(f"compile={typed}")
    assert config.execution.compile is compiled
    assert "compile" not in config.chosen


@pytest.mark.parametrize("bad", ["maybe", "2", "null", "[true]"])
def test_anything_else_is_refused(bad: str) -> None:
    with pytest.raises(ConfigError, match=r"^compile=.*: must be auto, true or false$"):
        config_of(f"compile={bad}")


@pytest.mark.parametrize(
    ("settings", "graphs"),
    [
        ((*LONG, "batch_size=8"), True),
        ((*LONG, "batch_size=32"), False),  # whose kernels take longer than their launches
        ((*LONG, "batch_size=8", "num_samples=79"), False),  # batches too few for what capturing them takes
        ((*LONG, "batch_size=8", "device=cpu"), False),
        ((*LONG, "batch_size=32", "graphs=true"), True),
        ((*LONG, "batch_size=8", "graphs=false"), False),
    ],
)
def test_graphs_are_for_many_small_batches_of_the_same_samples_in_a_folder_of_their_own(
    on_a_card: None, settings: tuple[str, ...], graphs: bool
) -> None:
    config, without = config_of(*settings, "compile=false"), config_of(*settings, "compile=false", "graphs=false")
    assert config.execution.graphs is graphs
    assert flat(config).get("graphs", False) is graphs
    assert identity(config) == identity(without)
    assert (run_id(config) == run_id(without)) is not graphs
