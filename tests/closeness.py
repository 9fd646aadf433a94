"""How near two results are that differ only in how sums were rounded.

Which kernel adds up a product, and in which order, depends on the processor, the batch size, and whether a model is
compiled or computed in slices. What comes out differs by rounding, relative to the largest numbers that were added: a
value near zero beside values of some hundred is as uncertain as they are. So a tensor is compared as one vector.
"""

from typing import Any

import torch

ROUNDING = 1e-5  # allowed in float32; a term, weight, step or sign that is wrong changes percents


def relative_difference(value: Any, expected: Any) -> float:
    """|value - expected| / |expected|, Euclidean norms in float64; of tensors, arrays or numbers of one shape.

    Zero where both are zero; NaN or infinite, which no tolerance allows, where one of them is not finite.
    """
    value, expected = (torch.as_tensor(given).detach().double() for given in (value, expected))
    assert value.shape == expected.shape
    difference, size = (value - expected).norm().item(), expected.norm().item()
    return difference / size if size else difference * float("inf") if difference else 0.0


def assert_near(value: Any, expected: Any, tolerance: float = ROUNDING) -> None:
    """Two tensors differ relatively by at most `tolerance`; of two sequences, as the steps of a trajectory, each pair.

    tolerance: a larger one than ROUNDING is for computations that amplify it, such as many steps of a random model.
    """
    if isinstance(expected, list | tuple):
        assert len(value) == len(expected)
        for one, other in zip(value, expected, strict=True):
            assert_near(one, other, tolerance)
    else:
        difference = relative_difference(value, expected)
        assert difference <= tolerance, f"they differ relatively by {difference:.2g}, allowed {tolerance:g}"
