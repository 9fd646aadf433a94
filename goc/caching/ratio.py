"""How many whole steps a cache ratio leaves; without torch, since settings need it."""


def computed_at(cache_ratio: float, steps: int) -> int:
    """How many of some steps are computed when whole ones are cached at a ratio; at least one."""
    return steps - min(round(cache_ratio * steps), steps - 1)
