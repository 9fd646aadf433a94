"""HiCache, FoCa and MagCache against public implementations, on made-up features."""

import ast
from collections.abc import Sequence
from math import sqrt
from types import ModuleType

import hicache_pp
import pytest
import torch
from closeness import assert_near
from composing import config_of
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from goc.caching import schedule
from goc.caching.cache import ScheduledCache
from goc.caching.calibration import MagnitudeRecorder
from goc.caching.expansion import FoCa, HiCache, Taylor
from goc.caching.predictor import Predictor, Reuse, evaluate
from goc.config import validate
from goc.methods.closest import closest_threshold
from goc.system.errors import ConfigError

CELL = (0, 0)
SCHEDULES = {  # computed steps of 20
    "interval 2": range(0, 20, 2),
    "interval 5": range(0, 20, 5),
    "taylorseer 4": [0, *range(1, 20, 4)],
    "uneven": [0, 1, 2, 6, 7, 13, 14, 15, 18],
    "one": [0],
    "two": [0, 1],
}
IN_ROW = {"two": [0, 1], "long": [0, 1, 10, 11], "pairs": [0, 1, 4, 5, 6, 10, 11, 15, 16]}  # runs after two in a row


def mask_of(computed: Sequence[int], steps: int = 20) -> Tensor:
    return torch.tensor([step not in computed for step in range(steps)])[:, None, None]


def features_of(steps: int = 20, seed: int = 0) -> Tensor:
    return torch.randn(steps, 2, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def used_values(predictor: Predictor, mask: Tensor, features: Tensor) -> list[Tensor]:
    """What a cell uses in each step, when the computed feature of step i is features[i]."""
    values = []
    for step, feature in enumerate(features):
        if mask[step, 0, 0]:
            held = {id(tensor) for tensor in predictor.held()}
            terms = predictor.predict(step, CELL)
            assert {id(tensor) for _, tensor in terms} <= held  # nothing is computed in a cached step
            values.append(evaluate(terms).clone())
        else:
            values.append(feature)
            predictor.store(step, CELL, feature.clone())
    return values


def assert_equal(values: list[Tensor], expected: list[Tensor], tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(torch.stack(values), torch.stack(expected), rtol=tolerance, atol=tolerance)


# HiCache


def hicache_pp_values(computed: Sequence[int], features: Tensor, order: int, sigma: float) -> list[Tensor]:
    """hicache-pp's forecasts; the steps are computed that are given."""
    state = hicache_pp.hicache_init(len(features), max_order=order, sigma=sigma)
    values = []
    for step, feature in enumerate(features):
        state["step"] = step
        if step in computed:
            state["activated_steps"].append(step)
            hicache_pp.hicache_update_derivatives(state, feature)
            values.append(feature)
        else:
            values.append(hicache_pp.hicache_forecast(state))
    return values


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("order", "sigma"), [(1, 0.5), (2, 0.5), (3, 0.7), (4, 0.3)])
def test_hicache_is_hicache_pp(name: str, order: int, sigma: float) -> None:
    computed, features = SCHEDULES[name], features_of()
    mask = mask_of(computed)
    values = used_values(HiCache(mask, order, sigma), mask, features)
    assert_equal(values, hicache_pp_values(computed, features, order, sigma))


def test_hicache_is_its_definition() -> None:
    """By hand, computed steps 0, 1, 3: H_2(sigma x) at x = 2, with the constant that a Taylor expansion has not."""
    mask, f, sigma = mask_of([0, 1, 3], 6), features_of(6), 0.6
    first, before = (f[3] - f[1]) / 2, f[1] - f[0]
    second = (first - before) / 2
    expected = f[3] + sigma * 2 * (sigma * 2) * first + sigma**2 * (4 * (sigma * 2) ** 2 - 2) * second / 2
    torch.testing.assert_close(used_values(HiCache(mask, 2, sigma), mask, f)[5], expected)


@pytest.mark.parametrize("backwards", [False, True])
def test_hicache_of_order_one_is_taylors_at_the_contraction_that_undoes_the_factor_two(backwards: bool) -> None:
    mask, features = mask_of(SCHEDULES["uneven"]), features_of()
    clock = [0.3 * (-step if backwards else step) for step in range(20)]
    hermite = used_values(HiCache(mask, 1, sqrt(0.5), clock), mask, features)
    assert_equal(hermite, used_values(Taylor(mask, 1, clock), mask, features))


def test_hicache_of_order_zero_and_over_no_time_is_reuse() -> None:
    features = features_of(6)
    for order, clock in [(0, None), (3, [0.0, 1.0, 2.0, 3.0, 3.0, 3.0])]:
        mask = mask_of([0, 1, 2, 3], 6)
        hermite = used_values(HiCache(mask, order, 0.5, clock), mask, features)
        assert_equal(hermite, used_values(Reuse(mask), mask, features), 0)


# FoCa


@pytest.fixture(scope="module")
def cache_dit() -> ModuleType:
    from cache_dit.caching.cache_contexts import calibrators

    return calibrators


def cache_dit_values(calibrators: ModuleType, computed: Sequence[int], features: Tensor) -> list[Tensor]:
    calibrator = calibrators.FoCaCalibrator()
    calibrator.maybe_init_state()
    values = []
    for step, feature in enumerate(features):
        calibrator.mark_step_begin()
        if step in computed:
            calibrator.update(feature)
        values.append(feature if step in computed else calibrator.approximate())
    return values


@pytest.mark.parametrize("name", SCHEDULES)
def test_foca_undivided_is_cache_dits_calibrator(cache_dit: ModuleType, name: str) -> None:
    computed, features = SCHEDULES[name], features_of(seed=1)
    mask = mask_of(computed)
    values = used_values(FoCa(mask, divided=False), mask, features)
    assert_equal(values, cache_dit_values(cache_dit, computed, features))


@pytest.mark.parametrize("name", IN_ROW)
def test_foca_is_cache_dits_calibrator_where_two_steps_in_a_row_are_computed(cache_dit: ModuleType, name: str) -> None:
    """There its premise holds that all values are one step apart."""
    computed, features = IN_ROW[name], features_of(seed=2)
    mask = mask_of(computed)
    assert_equal(used_values(FoCa(mask), mask, features), cache_dit_values(cache_dit, computed, features))


def test_foca_is_its_definition() -> None:
    """By hand, computed steps 0, 1, 4 of a clock: the local slope after step 4 starts at the prediction of step 3."""
    mask, f, clock = mask_of([0, 1, 4], 7), features_of(7), [0.0, 1.0, 1.5, 3.5, 4.0, 6.0, 7.0]
    values = used_values(FoCa(mask, clock), mask, f)
    slope = f[1] - f[0]
    torch.testing.assert_close(values[2], f[1] + 0.5 * slope)
    torch.testing.assert_close(values[3], f[1] + 2.5 / 2 * (slope + (values[2] - f[1]) / 0.5))
    slope, local = (f[4] - f[1]) / 3, (f[4] - values[3]) / 0.5
    torch.testing.assert_close(values[5], f[4] + 2 / 2 * (slope + local))
    torch.testing.assert_close(values[6], f[4] + 3 / 2 * (slope + (values[5] - f[4]) / 2))


@given(st.lists(st.integers(0, 3), max_size=5), st.floats(-5, 5))
def test_foca_predicts_what_is_linear_in_the_clock_exactly_over_three_steps(runs: list[int], rate: float) -> None:
    mask = torch.tensor([False, False, *(cached for run in runs for cached in [*[True] * run, False])])[:, None, None]
    clock = [0.5 * step + (step > 3) for step in range(len(mask))]
    features = torch.tensor([[1 + rate * now] for now in clock], dtype=torch.float64)
    torch.testing.assert_close(torch.stack(used_values(FoCa(mask, clock), mask, features)), features)


def test_an_undivided_slope_over_four_steps_is_four_times_too_large() -> None:
    mask = mask_of([0, 1, 5], 7)
    features = torch.arange(7, dtype=torch.float64)[:, None]
    assert used_values(FoCa(mask), mask, features)[6].item() == pytest.approx(6)
    assert used_values(FoCa(mask, divided=False), mask, features)[6].item() == pytest.approx(5 + (4 + 1) / 2)


def test_foca_knows_the_newer_of_two_values_at_one_time() -> None:
    clock = [0.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0]
    mask = mask_of([0, 1, 2, 5], 7)
    features = torch.tensor([3.0 - 2.0 * now for now in clock], dtype=torch.float64)[:, None]
    features[1] = 100.0  # replaced by step 2
    values = used_values(FoCa(mask, clock), mask, features)
    assert values[3].item() > 50  # its slope is still that of step 1
    assert values[4].item() == values[3].item()
    assert values[6].item() == features[5].item()


def test_foca_holds_three_tensors_a_cell_and_two_after_computed_steps_in_a_row() -> None:
    mask = mask_of([0, 1, 4, 8], 12)
    predictor, held = FoCa(mask), []
    for step, feature in enumerate(features_of(12)):
        if mask[step, 0, 0]:
            predictor.predict(step, CELL)
        else:
            predictor.store(step, CELL, feature)
        held.append(len(predictor.held()))
    assert held == [1, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 0]


@given(st.lists(st.booleans(), max_size=14), st.integers(0, 3))
def test_nothing_is_held_after_the_last_cached_step(tail: list[bool], order: int) -> None:
    mask = torch.tensor([False, *tail])[:, None, None]
    for predictor in (HiCache(mask, order, 0.5), FoCa(mask), FoCa(mask, divided=False)):
        used_values(predictor, mask, torch.randn(len(mask), 2))
        assert not predictor.held()


# MagCache


class Adds(nn.Module):
    """A transformer block that adds its half of a step's feature."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features, self.step, self.computed = features, 0, []

    def forward(self, hidden_states: Tensor) -> Tensor:
        self.computed.append(self.step)
        return hidden_states + self.features[self.step] / 2


class Blocks(nn.Module):
    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.transformer_blocks = nn.ModuleList([Adds(features), Adds(features)])

    def forward(self, x: Tensor, step: int) -> Tensor:
        for block in self.transformer_blocks:
            block.step = step
            x = block(x)
        return x


def diffusers_magcache(features: Tensor, **config) -> tuple[list[int], list[Tensor]]:
    """The steps that diffusers' MagCache computes, and what its blocks add to an input of zeros."""

    from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
    from diffusers.hooks.mag_cache import MagCacheConfig, apply_mag_cache

    TransformerBlockRegistry.register(Adds, TransformerBlockMetadata(0, None))
    model = Blocks(features)
    apply_mag_cache(model, MagCacheConfig(num_inference_steps=len(features), **config))
    added = [model(torch.zeros_like(feature), step) for step, feature in enumerate(features)]
    return model.transformer_blocks[1].computed, added


def measured_ratios(features: Tensor) -> Tensor:
    recorder = MagnitudeRecorder(len(features))
    for step, feature in enumerate(features):
        recorder.begin_step(step)
        recorder.store(*CELL, feature)
    return recorder.ratios()


def test_magnitude_ratios_are_diffusers_calibration(capsys: pytest.CaptureFixture[str]) -> None:
    features = features_of(12).float()
    diffusers_magcache(features, calibrate=True)
    printed = ast.literal_eval(capsys.readouterr().out.strip().splitlines()[-1])
    assert_near(measured_ratios(features), torch.tensor(printed, dtype=torch.float64), 1e-6)


def test_magnitude_ratios_are_means_over_all_samples_and_tokens_of_several_batches() -> None:
    batches = [torch.randn(5, n, 3, 4) for n in (2, 4)]
    recorder = MagnitudeRecorder(5)
    for features in batches:
        for step, feature in enumerate(features):
            recorder.begin_step(step)
            recorder.store(*CELL, feature)
    torch.testing.assert_close(recorder.ratios(), measured_ratios(torch.cat(batches, dim=1)))
    assert recorder.ratios()[0] == 1


@pytest.mark.parametrize("steps", [10, 20, 28])
@pytest.mark.parametrize(
    ("threshold", "max_skips", "retention"), [(0.06, 3, 0.2), (0.3, 2, 0.0), (0.5, 5, 0.125), (9.0, 3, 0.33)]
)
def test_magcache_skips_the_steps_that_diffusers_skips_and_uses_the_same_values(
    steps: int, threshold: float, max_skips: int, retention: float
) -> None:
    features = features_of(steps, seed=steps)
    ratios = 1 + 0.1 * torch.randn(steps, generator=torch.Generator().manual_seed(steps), dtype=torch.float64)
    mask = schedule.magcache(ratios, threshold, max_skips, retention)
    assert mask.shape == (steps, 1, 1)
    computed, added = diffusers_magcache(
        features, threshold=threshold, max_skip_steps=max_skips, retention_ratio=retention, mag_ratios=ratios
    )
    assert computed == torch.nonzero(~mask.flatten()).flatten().tolist()
    cache = ScheduledCache(mask, Reuse(mask), "stack")
    for step, feature in enumerate(features):
        cache.begin_step(step)
        terms = cache.lookup(*CELL)
        if terms is None:
            cache.store(*CELL, feature)
        torch.testing.assert_close(added[step], feature if terms is None else evaluate(terms))


changing = st.lists(st.floats(0.5, 1.5).filter(lambda ratio: ratio != 1), min_size=2, max_size=30)


@given(changing, st.integers(1, 5), st.floats(0, 0.9))
def test_magcache_skips_nothing_at_threshold_zero_and_at_most_max_skips_in_a_row(
    ratios: list[float], max_skips: int, retention: float
) -> None:
    steps = len(ratios)
    assert not schedule.magcache(torch.tensor(ratios), 0.0, max_skips, retention).any()
    skipped = schedule.magcache(torch.tensor(ratios), 1e9, max_skips, retention).flatten().int().tolist()
    first = max(1, int(retention * steps + 0.5))
    assert skipped == [int(i >= first and (i - first) % (max_skips + 1) < max_skips) for i in range(steps)]


@pytest.mark.parametrize("cache_ratio", [0.1, 0.25, 0.4, 0.5])
def test_the_threshold_closest_to_a_cache_ratio_is_found(cache_ratio: float) -> None:
    ratios = 1 - torch.linspace(0.01, 0.3, 40, dtype=torch.float64)

    def rule(threshold: float) -> Tensor:
        return schedule.magcache(ratios, threshold, 3, 0.2)

    threshold = closest_threshold(rule, schedule.magnitude_errors(ratios), cache_ratio)
    assert abs(schedule.cache_ratio_of(rule(threshold)) - cache_ratio) <= 1 / 40


# settings


def checked(*settings: str) -> None:
    validate(config_of(*settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("method=hicache predictor.sigma=1", "predictor.sigma=1.0: must be in (0, 1)"),
        ("method=hicache predictor.order=-1", "predictor.order=-1: must be at least 0"),
        ("method=magcache schedule.max_skips=0", "schedule.max_skips=0: must be at least 1"),
        ("method=magcache schedule.retention=1", "schedule.retention=1.0: must be in [0, 1)"),
    ],
)
def test_settings_that_cannot_be_run_are_refused_in_one_line(settings: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        checked(*settings.split())
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_foca_undivided_has_no_clock_but_the_step() -> None:
    assert config_of("method=foca", "clock=logsnr").way.clock == "logsnr"
    assert config_of("method=foca", "predictor.divided=false", "clock=logsnr").way.clock == "step"
