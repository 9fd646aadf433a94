"""Networks of plugins: the walk through blocks that are not DiT's, and what is said of one that lacks something."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from checkout import REPOSITORY
from closeness import assert_near
from safetensors.torch import save_file
from torch import Tensor, nn

from goc.caching.cache import AdaptiveCache, ScheduledCache
from goc.caching.decision import Verify
from goc.caching.predictor import Reuse
from goc.caching.samples import SampleCaches
from goc.caching.schedule import uniform, whole_steps
from goc.config import compose_config, flat, identity, validate
from goc.models.build import prepare
from goc.models.cost import image_macs
from goc.models.counting import counted_macs
from goc.models.custom import load_network
from goc.models.dit import DiT
from goc.models.network import Network, Site
from goc.system.errors import ConfigError, GocError
from goc.system.plugins import source_of
from goc.train import router

SHAPE = {"input_size": 8, "in_channels": 1, "num_classes": 10, "depth": 3}
PLAIN = "goc_plain.network:Plain"


@pytest.fixture(scope="module", autouse=True)
def example() -> Iterator[None]:
    """docs/examples/network, as if it was installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(REPOSITORY / "docs" / "examples" / "network"))
        yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "goc_plain"]:
        del sys.modules[name]


@pytest.fixture
def plain(example: None) -> Network:
    from goc_plain.network import Plain

    torch.manual_seed(0)
    return Plain(**SHAPE).eval().requires_grad_(False)


def inputs(count: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(count, 1, 8, 8), torch.tensor([400.0]), torch.arange(count)


def by_hand(network: Network, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """The plain transformer's forward pass as anyone would write it."""
    h, condition = network.tokens(x, t, y)
    for block in range(network.depth):
        h = h + network.branch(block, 0, h, condition)
        h = h + network.branch(block, 1, h, condition)
    return network.output(h, condition)


def test_the_walk_is_the_networks_own_forward_pass(plain: Network) -> None:
    x, t, y = inputs(3)
    with torch.inference_mode():
        assert_near(plain(x, t, y), by_hand(plain, x, t, y), 1e-6)
    plain.requires_grad_(True)
    plain(x, t, y).sum().backward()  # nothing in place where there are gradients
    assert all(parameter.grad is not None for parameter in plain.parameters())


@pytest.mark.parametrize("site", ["branch", "stack"])
def test_a_cached_run_costs_what_torch_counts(plain: Network, site: Site) -> None:
    mask = uniform(4, plain.depth, 0.5)
    if site == "branch":
        mask[2, 1, 1] = True
    else:
        mask = mask[:, :1, :1]
    cache = ScheduledCache(mask, Reuse(mask), site)
    x, t, y = inputs(1)

    def run() -> None:
        for step in range(len(mask)):
            cache.begin_step(step)
            plain(x, t, y, cache)

    assert counted_macs(run) == image_macs(plain, mask, guided=False, site=site)
    tokens, width = 18, 48
    a_block = 12 * tokens * width**2 + 2 * tokens**2 * width
    assert plain.macs.cells.sum() == plain.depth * a_block
    assert not plain.macs.gates.any()


def test_counting_gives_what_the_formulas_of_dit_give(tiny_dit: DiT) -> None:
    counted, formulas = Network.macs.func(tiny_dit), tiny_dit.macs
    assert torch.equal(counted.cells, formulas.cells)
    assert torch.equal(counted.gates, formulas.gates)
    assert (counted.forward, counted.modulated_input) == (formulas.forward, formulas.modulated_input)
    assert counted.stream == formulas.stream


def test_samples_that_decide_for_themselves_are_what_they_are_alone(plain: Network) -> None:
    """In rows that go apart: one sample is predicted where the other, whose last block went astray, is computed."""
    steps = whole_steps(range(1, 4), 4, plain.depth)

    def run(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        rule = Verify(base=0.5, decay=0.5, least=0, most=3, steps=4)
        cache = SampleCaches(AdaptiveCache(steps, Reuse(steps), rule, "branch", per_sample=True), len(x))
        for step in range(4):
            cache.begin_step(step)
            x = x + (y - 1).view(-1, 1, 1, 1) * 2 * step  # the second sample goes on, the first stays
            output = plain(x, torch.tensor([900.0 - 300 * step]), y, cache)
        return output, cache.mask

    x, _, _ = inputs(2)
    together, mask = run(x, torch.tensor([1, 2]))
    alone = [run(x[i : i + 1], torch.tensor([i + 1])) for i in range(2)]
    assert torch.equal(mask, torch.cat([single for _, single in alone]))
    assert mask[0].sum() > mask[1].sum() > 0
    assert_near(together, torch.cat([output for output, _ in alone]), 1e-5)


class Short(Network):
    """Lacks nearly all."""

    def __init__(self, **shape: int) -> None:
        super().__init__()
        self.input_size, self.depth = 8, 3

    def tokens(self, x: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x, y


class Plainer(nn.Linear):
    def __init__(self, **shape: int) -> None:
        super().__init__(1, 1)


LACKS = {
    "no module": (
        "nowhere.network:Net",
        {},
        "cannot be made with .*: nowhere.network:Net: cannot be loaded: No module",
    ),
    "no class": ("goc_plain.network:Net", {}, "cannot be made with .*: goc_plain.network:Net: cannot be loaded"),
    "no name": ("goc_plain.network", {}, "cannot be made with .*cannot be loaded"),
    "an argument": (PLAIN, {"num_heads": 4}, "cannot be made with .*num_heads=4: .*unexpected keyword.*num_heads"),
    "no network": (f"{__name__}:Plainer", {}, "makes a Plainer, which must be a Network"),
    "methods and numbers": (f"{__name__}:Short", {}, r"lacks branch\(\), output\(\), in_channels, num_classes"),
}


@pytest.mark.parametrize("case", LACKS.values(), ids=LACKS.keys())
def test_what_a_network_lacks_is_one_line(case: tuple[str, dict[str, int], str], tmp_path: Path) -> None:
    reference, more, line = case
    with pytest.raises(GocError, match=rf"^model\.network={reference}: {line}") as refusal:
        load_network(reference, {**SHAPE, **more}, tmp_path / "absent.pt")
    assert "\n" not in str(refusal.value)


def altered(cls: type, change: Callable[[Any], Any]) -> Any:
    """`tokens` of a class, whose result is changed."""
    original = cls.tokens
    return lambda self, x, t, y: change(original(self, x, t, y))


ILL_SHAPED: dict[str, tuple[str, Callable[[type], Any], str]] = {
    "h": ("tokens", lambda cls: altered(cls, lambda pair: (pair[0][:1], pair[1])),
          r"tokens\(\) gives h \[1, 18, 48\] of two samples: must be \[2, tokens, hidden\]"),
    "condition": ("tokens", lambda cls: altered(cls, lambda pair: (pair[0], pair[1][:1])),
                  r"tokens\(\) gives a condition \[1, 2, 48\] of two samples: must be \[2, ...\]"),
    "feature": ("branch", lambda _: lambda self, block, branch, h, modulation: h[:, :1].clone(),
                r"branch\(\) gives \[2, 1, 48\] for h \[2, 18, 48\]: must be of one shape"),
    "output": ("learned_variance", lambda _: True,
               r"output\(\) gives \[2, 1, 8, 8\]: must be \[2, 2, 8, 8\] with learned_variance=True"),
    "failing": ("output", lambda _: lambda self, h, condition: h @ h, "fails at two samples: RuntimeError: "),
    "depth": ("depth", lambda _: property(lambda self: 4, lambda *_: None), "its depth is 4, must be model.depth=3"),
}  # fmt: skip


@pytest.mark.parametrize("case", ILL_SHAPED.values(), ids=ILL_SHAPED.keys())
def test_a_network_of_other_shapes_is_one_line(
    case: tuple[str, Callable[[type], Any], str], plain: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, make, line = case
    torch.save(plain.state_dict(), path := tmp_path / "plain.pt")
    monkeypatch.setattr(type(plain), name, make(type(plain)), raising=False)
    with pytest.raises(GocError, match=rf"^model\.network={PLAIN}: {line}"):
        load_network(PLAIN, SHAPE, path)


def test_a_network_of_another_objective_or_other_weights_is_refused(plain: Network, tmp_path: Path) -> None:
    save_file(plain.state_dict(), path := tmp_path / "plain.safetensors", {"objective": "flow"})
    loaded = load_network(PLAIN, SHAPE, path, "flow")
    assert_near(loaded(*inputs(2)), plain(*inputs(2)), 1e-6)
    with pytest.raises(GocError, match=r"^model\.objective=diffusion: must be flow, which .*plain"):
        load_network(PLAIN, SHAPE, path)
    with pytest.raises(GocError, match=r"^model\.checkpoint=.*: does not fit the model: blocks\.2\..* unexpected"):
        load_network(PLAIN, {**SHAPE, "depth": 2}, path)


OF_NONE = {
    "selection": (["method=toca"], f"selection=toca: must be none with model.network={PLAIN}, of which no tokens"),
    "a pipeline": (
        ["model=pipeline"],
        "model.network=goc_plain.network:Plain: must be null with model.objective=pipeline",
    ),
    "no classes": (["model.num_classes=0"], "model.num_classes=0: must be at least 1"),
}


@pytest.mark.parametrize("case", OF_NONE.values(), ids=OF_NONE.keys())
def test_what_no_other_network_has_is_refused_before_anything_is_loaded(case: tuple[list[str], str]) -> None:
    settings, line = case
    pipeline = ["model.pipeline=here", "prompts=there"] if "model=pipeline" in settings else []
    with pytest.raises(ConfigError, match=f"^{line}"):
        validate(compose_config([*settings, *pipeline, f"model.network={PLAIN}"]))


def test_routers_are_trained_in_dit_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["goc", f"model.network={PLAIN}"])
    with pytest.raises(ConfigError, match=rf"^model\.network={PLAIN}: must be null here, as routers are"):
        router.main()


def test_a_network_is_compiled_if_it_says_how(plain: Network) -> None:
    with pytest.raises(ConfigError, match=r"^compile=true: not supported with Plain, which has no compile_br"):
        prepare(plain, torch.device("cpu"), None, compiled=True)


def test_a_network_is_made_of_the_numbers_that_settings_say_and_is_in_the_identity() -> None:
    numbers = [f"model.{name}={value}" for name, value in SHAPE.items()]
    others = [f"model.{name}=0" for name in ("patch_size", "hidden_size", "num_heads")]
    config = compose_config([f"model.network={PLAIN}", *numbers, *others])
    validate(config)
    assert {name: value for name, value in config.measurement.model.shape().items() if value} == SHAPE
    assert identity(config)["model"]["network"] == PLAIN
    assert config.files == {"model.network": source_of("goc_plain")}
    assert "network" not in flat(compose_config([]))["model"]  # as it was before there were any
    smoke = compose_config([f"model.network={PLAIN}", *numbers, *others, "smoke=true"])
    assert smoke.measurement.model.network is None
