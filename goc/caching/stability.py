"""How much the gradient queue amplifies its own errors: the reason why it diverges on some schedules.

A prediction is a fixed linear combination of the values used before it, and predictions are among those values. So an
error made once runs on through the queue, and whether it grows depends on the schedule and the weights alone.

With gradients between computed features (anchored.py) no prediction enters the queue: an error in a computed value ends
where that value is dropped, and the amplification from one computed value to the next is 1 on every schedule.
"""

from collections.abc import Sequence
from math import inf, isnan

import torch
from torch import Tensor

from goc.caching.predictor import GradientQueue, Predictor, evaluate


def amplification(
    mask: Tensor, weights: Sequence[float], correct: Tensor | None = None, clock: Sequence[float] | None = None
) -> float:
    """The largest factor by which an error in one used value is multiplied in a later prediction of its cell.

    Arguments as for GradientQueue: the mask and correct are bool [evaluations, blocks, 2]. 1 for plain reuse; with one
    weight w and every other step cached it is max(1, |w|)^(number of cached steps after the error, at most).
    """
    correct = torch.ones_like(mask) if correct is None else correct
    cells = torch.cat([mask.flatten(1), correct.flatten(1)]).unique(dim=1)  # many cells share one schedule
    steps = len(mask)
    return max(_cell_amplification(cell[:steps], cell[steps:], weights, clock) for cell in cells.unbind(dim=1))


def _cell_amplification(
    cached: Tensor, correct: Tensor, weights: Sequence[float], clock: Sequence[float] | None
) -> float:
    """The same for one cell, bool [steps]: the growth of an error that starts in a computed value."""
    queue = GradientQueue(cached[:, None, None], weights, correct[:, None, None], clock)
    growth = float(linear_weights(queue, cached.tolist()).abs().max())
    return inf if isnan(growth) else max(1.0, growth)  # not a number: what is infinite was subtracted from itself


def linear_weights(predictor: Predictor, cached: Sequence[bool]) -> Tensor:
    """The predictions of a cell as weights on its computed features, float64 [steps, steps]; computed steps have 0.

    The predictor, made for the mask [evaluations, 1, 1] of these steps, is run on unit vectors: it must be linear.
    """
    steps = len(cached)
    weights = torch.zeros(steps, steps, dtype=torch.float64)
    for step, is_cached in enumerate(cached):
        if is_cached:
            weights[step] = evaluate([(float(factor), term) for factor, term in predictor.predict(step, (0, 0))])
        else:
            predictor.store(step, (0, 0), torch.eye(steps, dtype=torch.float64)[step])
    return weights
