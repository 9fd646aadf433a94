import pytest
import torch

from goc.caching.cache import ScheduledCache
from goc.caching.predictor import Reuse
from goc.caching.schedule import uniform
from goc.models.cost import cell_macs, forward_macs, image_macs
from goc.models.counting import counted_macs
from goc.models.dit import DiT


@pytest.mark.parametrize(("input_size", "gmacs"), [(32, 118.6), (64, 524.6)])
def test_dit_xl_2_costs_the_published_macs(input_size: int, gmacs: float) -> None:
    with torch.device("meta"):
        model = DiT.published("DiT-XL/2", input_size)
    assert forward_macs(model) / 1e9 == pytest.approx(gmacs, rel=2e-4)  # the paper counts some elementwise work too
    x = torch.empty(1, 4, input_size, input_size, device="meta")
    index = torch.zeros(1, dtype=torch.long, device="meta")
    assert counted_macs(lambda: model(x, index, index)) == forward_macs(model)


def test_nearly_all_of_dit_xl_2_can_be_cached() -> None:
    with torch.device("meta"):
        model = DiT.published("DiT-XL/2")
    assert int(cell_macs(model).sum()) / forward_macs(model) == pytest.approx(0.9992, abs=1e-4)


def test_a_cached_run_costs_what_torch_counts(tiny_dit: DiT) -> None:
    mask = uniform(6, tiny_dit.depth, 0.5)
    mask[2, 1, 1] = True  # and a single cell
    cache = ScheduledCache(mask, Reuse(mask))
    x, t, y = torch.randn(1, 2, 4, 4), torch.zeros(1), torch.zeros(1, dtype=torch.long)

    def run() -> None:
        for step in range(len(mask)):
            cache.begin_step(step)
            tiny_dit(x, t, y, cache)

    assert counted_macs(run) == image_macs(tiny_dit, mask, guided=False)


def test_a_cached_stack_costs_what_torch_counts(tiny_dit: DiT) -> None:
    mask = uniform(4, 1, 0.5)[:, :1, :1]
    cache = ScheduledCache(mask, Reuse(mask), "stack")
    x, t, y = torch.randn(1, 2, 4, 4), torch.zeros(1), torch.zeros(1, dtype=torch.long)

    def run() -> None:
        for step in range(len(mask)):
            cache.begin_step(step)
            tiny_dit(x, t, y, cache)

    assert counted_macs(run) == image_macs(tiny_dit, mask, guided=False, site="stack")


def test_guidance_doubles_the_cost_and_the_saved_share_is_the_masks(tiny_dit: DiT) -> None:
    mask = uniform(20, tiny_dit.depth, 0.25)
    full = image_macs(tiny_dit, torch.zeros_like(mask), guided=False)
    assert image_macs(tiny_dit, mask, guided=True) == 2 * image_macs(tiny_dit, mask, guided=False)
    cacheable = int(cell_macs(tiny_dit).sum()) / forward_macs(tiny_dit)
    assert 1 - image_macs(tiny_dit, mask, guided=False) / full == pytest.approx(0.25 * cacheable)
