import pytest
import torch
from torch import Tensor

from goc.caching.inflection import correct_at
from goc.caching.predictor import GradientQueue, evaluate
from goc.caching.schedule import fora, uniform
from goc.caching.stability import amplification


def run_queue(mask: Tensor, weights: list[float], features: Tensor) -> list[Tensor]:
    queue = GradientQueue(mask, weights)
    used = []
    for step, feature in enumerate(features):
        if mask[step, 0, 0]:
            used.append(evaluate(queue.predict(step, (0, 0))).clone())
        else:
            queue.store(step, (0, 0), feature.clone())
            used.append(feature)
    return used


@pytest.mark.parametrize("weights", [[1.0], [0.7, 0.4]])
def test_it_is_the_worst_growth_of_a_small_error_in_the_real_queue(weights: list[float]) -> None:
    mask = uniform(20, 1, 0.75)
    features = torch.randn(20, 1, dtype=torch.float64)
    plain, worst = run_queue(mask, weights, features), 1.0
    for step in range(20):
        if not mask[step, 0, 0]:
            disturbed = features.clone()
            disturbed[step] += 1
            growth = [abs(a - b).item() for a, b in zip(run_queue(mask, weights, disturbed), plain, strict=True)]
            worst = max(worst, *growth)
    assert amplification(mask, weights) == pytest.approx(worst)


def test_reuse_amplifies_nothing_and_long_intervals_much() -> None:
    assert amplification(uniform(50, 3, 0.75), [0.0]) == 1
    assert amplification(uniform(50, 3, 0.5), [1.0]) == 2  # 1 + w, and it does not grow
    assert amplification(fora(50, 3, 4), [1.0]) > 1e4


def test_a_weight_above_one_grows_with_every_cached_step_until_it_is_gated() -> None:
    mask = uniform(50, 1, 0.5)
    ungated = amplification(mask, [1.2])
    assert ungated == pytest.approx(2.2 * 1.2**23)
    halfway = ~correct_at([25], (50, 1, 2))
    assert amplification(mask, [1.2], halfway) < ungated / 8
