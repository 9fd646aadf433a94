"""How much the gradient queue amplifies its own errors: the reason why it diverges on some schedules.

A prediction is a fixed linear combination of the values used before it, and predictions are among those values. So an
error made once runs on through the queue, and whether it grows depends on the schedule and the weights alone.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from goc.caching.predictor import GradientQueue, evaluate


def amplification(
    mask: Tensor, weights: Sequence[float], correct: Tensor | None = None, clock: Sequence[float] | None = None
) -> float:
    """The largest factor by which an error in one used value is multiplied in a later prediction of its cell.

    Arguments as for GradientQueue: the mask and correct are bool [steps, blocks, 2]. 1 for plain reuse; with one weight
    w and every other step cached it is max(1, |w|)^(number of cached steps after the error, at most).
    """
    correct = torch.ones_like(mask) if correct is None else correct
    cells = torch.cat([mask.flatten(1), correct.flatten(1)]).unique(dim=1)  # many cells share one schedule
    steps = len(mask)
    return max(_cell_amplification(cell[:steps], cell[steps:], weights, clock) for cell in cells.unbind(dim=1))


def _cell_amplification(
    cached: Tensor, correct: Tensor, weights: Sequence[float], clock: Sequence[float] | None
) -> float:
    """The same for one cell, bool [steps]: its queue is run on errors, one column for each step they start in."""
    steps = len(cached)
    queue = GradientQueue(cached[:, None, None], weights, correct[:, None, None], clock)
    largest = 1.0
    for step, is_cached in enumerate(cached.tolist()):
        if not is_cached:
            # a computed value is exact but for the error that starts here
            queue.store(step, (0, 0), torch.eye(steps, dtype=torch.float64)[step])
        else:
            largest = max(largest, float(evaluate(queue.predict(step, (0, 0))).abs().max()))
    return largest
