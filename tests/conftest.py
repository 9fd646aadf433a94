"""Shared fixtures: small models, the oracles' folder, and run.py as a user runs it."""

import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING

# pytest-xdist runs one process for each core. Before numpy is imported, whose BLAS reads it then; torch too
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # or torch.compile starts processes, which import torch

import pytest
from checkout import made_once, oracle_folders
from hypothesis import HealthCheck, settings

import goc  # noqa: F401  # before what imports torchvision, which it mends

if TYPE_CHECKING:  # pytest-xdist's controller runs no test, and loads no torch
    from goc.models.dit import DiT

for profile, examples in (("quick", 40), ("thorough", 400)):  # how fast a machine is says nothing of a property
    settings.register_profile(
        profile, max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )

# of the files, each of which is one worker's: while tests of the first wait, others compute; the short ones come last
SLOW_FIXTURES = {"browser", "inception_file"}
ORDER = ("tests/process/", "tests/app/", "tests/unit/")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--oracles",
        type=Path,
        action="append",
        help="folder of reference trajectories from the methods' authors (default: those in shared/)",
    )
    parser.addoption("--nightly", action="store_true", help="the long tests that `make test` leaves out, alone")
    parser.addoption("--update-golden", action="store_true", help="write tests/unit/golden anew")


@pytest.fixture
def published_data(request: pytest.FixtureRequest) -> Path:
    """The folder of published routers, schedules and rows."""
    folder = oracle_folders(request.config)[0].parent / "data"
    if not folder.is_dir():
        pytest.skip("what was published, beside the folder given by --oracles, is absent")
    return folder


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "nightly: long, and held by a shorter test as well; `make test-nightly`")
    settings.load_profile("thorough" if config.getoption("--nightly") else "quick")
    config.addinivalue_line("markers", "slow: compiles, trains or takes seconds; left out of `make check`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    nightly = [item for item in items if item.get_closest_marker("nightly")]
    if config.getoption("--nightly"):
        config.hook.pytest_deselected(items=[item for item in items if item not in nightly])
        items[:] = nightly
    elif not any("::" in argument for argument in config.args):  # one that is named is run
        config.hook.pytest_deselected(items=nightly)
        items[:] = [item for item in items if item not in nightly]
    for item in items:
        if SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("slow")
    items.sort(key=place)


def pytest_collection_finish(session: pytest.Session) -> None:
    gc.freeze()  # a million objects of the modules, through which each whole collection would go: a tenth of all


def pytest_unconfigure(config: pytest.Config) -> None:
    gc.unfreeze()


def place(item: pytest.Item) -> tuple[int, bool]:
    """Of a test in the order of all: by folder, and in each what is slow first."""
    room = next((n for n, folder in enumerate(ORDER) if item.nodeid.startswith(folder)), len(ORDER))
    return room, item.get_closest_marker("slow") is None


@pytest.fixture
def tiny_dit() -> "DiT":
    """A random DiT whose every block changes the output (the usual initialisation makes them the identity)."""
    import torch

    from goc.models.dit import DiT

    torch.manual_seed(0)
    model = DiT(input_size=4, patch_size=2, in_channels=2, hidden_size=16, depth=3, num_heads=2, num_classes=5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


def write_inception(folder: Path) -> None:
    import torch

    from goc.cli.random_weights import UntrainedInception

    torch.manual_seed(0)
    state = UntrainedInception().state_dict()
    for name, tensor in state.items():
        if name.endswith("conv.weight"):
            tensor *= 6**0.5
        elif name.endswith("bn.bias"):
            tensor += 0.1 * torch.randn_like(tensor)
    torch.save(state, folder / "inception.pth")


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file of a random Inception-v3 whose activations neither vanish nor explode."""
    return made_once(tmp_path_factory, "inception", write_inception) / "inception.pth"


def write_pipeline(folder: Path) -> None:
    from goc.cli import random_weights

    assert random_weights.main(["--pipeline", str(folder / "tiny")]) == 0


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny random pipeline of goc random-weights, with prompts.txt and clip/ in its folder."""
    return made_once(tmp_path_factory, "pipeline", write_pipeline) / "tiny"


@pytest.fixture
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without their static pictures, which take longest, for tests of what else is in them."""
    monkeypatch.setattr("goc.report.study.plot_tradeoff", lambda *_: "")
