"""The columns of the table over runs: what was set, what it cost and what was measured, by plugins' metrics too."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Any

from goc.metrics.columns import Column
from goc.metrics.registry import METRICS

PLAIN_COST = partial(Column, better="lower")
TO_CONVERGED = partial(Column, better="lower", error=True, of="converged")


def to_uncached(name: str, *shown: Any, **options: Any) -> Column:
    """The column of a distance to the uncached run; shown, options: as `Column` has them."""
    return replace(Column(name, ("distance", name), *shown, **options), of="pairs", to_target=True)


QUARTILES = ("min", "q25", "median", "q75", "max")  # of what is cached, where that is decided for each sample
BEFORE = (
    Column("method", ("method",)),
    Column("sampler", ("config", "sampler")),  # its name, and "solver" is how it is called with its settings and steps
    Column("steps", ("config", "steps")),
    Column("cached", ("cost", "cache_ratio"), "cached", "share of the features that are not computed", "higher",
           percent=True),
    *(Column(f"cached_{name}", ("cost", f"cache_ratio_{name}")) for name in ("std", *QUARTILES)),
    PLAIN_COST("evaluations", ("cost", "evaluations"), "evaluations", "network evaluations"),
    PLAIN_COST("macs_evaluations", ("cost", "macs_evaluations"), "evaluations' worth",
               "MACs, those of one network evaluation = 1"),
)  # fmt: skip
MEASURED = (
    TO_CONVERGED("converged", ("converged", "mean"), "to converged", "distance to the converged solution",
                 contribution="converged"),
    TO_CONVERGED("converged_median", ("converged", "median"), "to converged, median",
                 "distance to the converged solution, median", aside=True),
    Column("converged_accuracy", ("converged", "accuracy")),
    to_uncached("drift", "drift", "drift: FID to the uncached samples", "lower", True, "drift", biased=True),
    to_uncached("mse", "MSE", "MSE to the uncached samples", "lower", aside=True),
    to_uncached("relative_l2", "rel. L2, all", "relative L2 to the uncached samples, of all as one vector", "lower",
                aside=True),
    to_uncached("relative_l2_mean", "rel. L2, mean", "relative L2 to the uncached samples, mean", "lower", True,
                "relative_l2", aside=True),
    to_uncached("relative_l2_median", "rel. L2, median", "relative L2 to the uncached samples, median", "lower", True),
    to_uncached("relative_l2_p95", "rel. L2, p95", "relative L2 to the uncached samples, 95th percentile", "lower",
                True, aside=True),
    to_uncached("psnr", "PSNR, all", "PSNR to the uncached images, of all as one, dB", "higher", aside=True),
    to_uncached("psnr_image", "PSNR, mean", "PSNR to the uncached images, mean, dB", "higher", True, "psnr_image"),
    to_uncached("ssim", "SSIM", "SSIM to the uncached images", "higher", True, "ssim", aside=True),
    to_uncached("lpips", "LPIPS", "LPIPS to the uncached images", "lower", True, "lpips", aside=True),
)  # fmt: skip
COST = (
    PLAIN_COST("gmacs", ("cost", "gmacs_per_image"), "GMACs", "GMACs per image"),
    Column("macs_saved", ("cost", "macs_saved"), "MACs saved", "share of the MACs that are saved", "higher",
           percent=True),
    PLAIN_COST("ms_per_image", ("cost", "ms_per_image"), "ms per image", "measured time per image, ms"),
    PLAIN_COST("latency_ratio", ("cost", "latency_ratio"), "latency ratio",
               "measured time, uncached run of the same steps = 1"),
)  # fmt: skip
AFTER = (
    *(Column(path[-1], path) for path in (
        ("config", "gradient_weights"), ("config", "inflection_threshold"), ("amplification",),
        ("config", "correct_steps"), ("inflection", "uncorrected_steps"), ("cached_steps",), ("cached_share",),
        ("config", "guidance_interval"), ("config", "cfg_cache"))),
    Column("samples", ("config", "num_samples")),
    *(Column(name, ("config", name)) for name in ("seed", "cfg_scale")),
    Column("model", ("config", "model", "name")),
    Column("family", ("config", "model", "family")),
)  # fmt: skip


def columns() -> dict[str, Column]:
    """All columns by name, in the table's order."""
    return _columns(tuple(METRICS))


@cache
def _columns(metrics: tuple[str, ...]) -> dict[str, Column]:
    scores = [column for name in metrics for column in METRICS[name].columns]
    return {column.name: column for column in (*BEFORE, *_in_order(scores), *MEASURED, *COST, *AFTER)}


def _in_order(scores: list[Column]) -> Iterator[Column]:
    """The columns of metrics, FID first, the second extractor's distance beside it, and IS behind them."""
    first = ("fid", "fd_dinov2", "fd_second", "sfid", "is")
    yield from sorted(scores, key=lambda column: first.index(column.name) if column.name in first else len(first))


def cost() -> list[str]:
    """The columns that say what a run cost."""
    return ["cached", "evaluations", "macs_evaluations", *(column.name for column in COST)]


def qualities() -> list[str]:
    """The columns that say how good samples are, in the table's order."""
    costs = set(cost())
    return [name for name, column in columns().items() if column.better is not None and name not in costs]


def having_error() -> list[str]:
    """The columns that have standard errors."""
    return [name for name, column in columns().items() if column.error]


SPEEDUP = Column("speedup", (), "speed-up", "measured speed-up", "higher")  # which a page works out


def on_page() -> dict[str, Column]:
    """The columns that have a title, costs first: those of the page, where the speed-up is one."""
    titled = {name: column for name, column in columns().items() if column.title}
    costs = {name: titled.pop(name) for name in ("evaluations", "macs_evaluations", "gmacs")}
    others = {name: titled.pop(name) for name in cost() if name in titled}
    return {**costs, SPEEDUP.name: SPEEDUP, **others, **titled}


def titles(name: str) -> tuple[str, str]:
    """A shown column's title and its meaning."""
    column = on_page()[name]
    return column.title, column.meaning


def lower_is_better(name: str) -> bool:
    """Whether less of a quality is better, or less of a cost is cheaper."""
    return (SPEEDUP if name == SPEEDUP.name else columns()[name]).lower


def of_plugins() -> list[str]:
    """The columns of plugins' metrics."""
    return [column.name for name, metric in METRICS.items() if METRICS.plugin_of(name) for column in metric.columns]
