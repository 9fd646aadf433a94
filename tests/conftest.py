"""Shared fixtures: small models, the oracles' folder, and run.py as a user runs it."""

import io
from pathlib import Path

import pytest
import torch

from goc.metrics.fidelity import FeatureExtractorInceptionV3
from goc.models.dit import DiT

# what takes long to make is made by one worker, for all tests that use it
SHARED = ("study", "weights", "wheel", "filling", "inception_file", "browser", "report")
# while the first wait for others, the next compute; the short ones fill what is left at the end
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


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)  # pytest-xdist runs one process for each core
    config.addinivalue_line("markers", "nightly: long, and held by a shorter test as well; `make test-nightly`")
    config.addinivalue_line("markers", "slow: compiles, trains or takes seconds; left out of `make check`")


@pytest.hookimpl(tryfirst=True)  # before xdist looks at the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    nightly = [item for item in items if item.get_closest_marker("nightly")]
    if config.getoption("--nightly"):
        config.hook.pytest_deselected(items=[item for item in items if item not in nightly])
        items[:] = nightly
    elif not any("::" in argument for argument in config.args):  # one that is named is run
        config.hook.pytest_deselected(items=nightly)
        items[:] = [item for item in items if item not in nightly]
    for item in items:
        for name in set(SHARED) & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.xdist_group(name))
    items.sort(key=place)


def place(item: pytest.Item) -> tuple[int, bool, bool]:
    """Of a test in the order of all: by folder, and in each what others share, and what is slow, first."""
    room = next((n for n, folder in enumerate(ORDER) if item.nodeid.startswith(folder)), len(ORDER))
    return room, item.get_closest_marker("xdist_group") is None, item.get_closest_marker("slow") is None


@pytest.fixture
def tiny_dit() -> DiT:
    """A random DiT whose every block changes the output (the usual initialisation makes them the identity)."""
    torch.manual_seed(0)
    model = DiT(input_size=4, patch_size=2, in_channels=2, hidden_size=16, depth=3, num_heads=2, num_classes=5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


class UntrainedInception(FeatureExtractorInceptionV3):
    """Inception-v3 as it is initialised: torch-fidelity's cannot be made without a state dict, so this ignores it."""

    def load_state_dict(self, state_dict: object, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file of a random Inception-v3 whose activations neither vanish nor explode."""
    torch.manual_seed(0)
    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    state = UntrainedInception("untrained", ["2048"], nothing).state_dict()
    for name, tensor in state.items():
        if name.endswith("conv.weight"):
            tensor *= 6**0.5
        elif name.endswith("bn.bias"):
            tensor += 0.1 * torch.randn_like(tensor)
    path = tmp_path_factory.mktemp("inception") / "inception.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny random pipeline of goc random-weights, with prompts.txt and clip/ in its folder."""
    from goc.cli import random_weights

    folder = tmp_path_factory.mktemp("pipeline") / "tiny"
    assert random_weights.main(["--pipeline", str(folder)]) == 0
    return folder


@pytest.fixture
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without their static pictures, which take longest, for tests of what else is in them."""
    monkeypatch.setattr("goc.report.study.plot_tradeoff", lambda *_: "")
