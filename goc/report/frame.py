"""The table over many runs, one row a run, and over the seeds of a point."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import pandas as pd

from goc.config.identity import FILES, distinguishing
from goc.report.columns import columns, cost, having_error, qualities
from goc.report.results import compared_of, measurement_of
from goc.report.text import printable
from goc.sampling.options import kind_of
from goc.system.files import content_key

TUNED_ON = "tuned_on"  # of the samples that are scored, how many the method was tuned on
DISTINGUISHING = "distinguishing"  # the settings that tell a run from others
# columns by which rows are put together, or noted, and that no file shows
INTERNAL = ["compared", "point", "way", TUNED_ON, DISTINGUISHING]
MEASUREMENT = ["model", "cfg_scale", "samples", "seed", "measurement"]  # rows compare where all are equal
# settings that tell runs of one method apart, and their short names
SETTINGS = {"gradient_weights": "w", "inflection_threshold": "threshold", "correct_steps": "corrected at"}


def measurement_name(row: Mapping[Any, Any]) -> str:
    """The measurement of a row, for people; two rows have the same name only if they may be compared."""
    model, cfg_scale, samples, seed, measurement = (row.get(column) for column in MEASUREMENT)
    seeds = f"seed{'s' * (',' in str(seed))} {seed}"
    return f"{model}, guidance {cfg_scale}, {samples} samples, {seeds} (measurement {str(measurement)[:6]})"


def _lookup(result: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        result = result.get(key) if isinstance(result, Mapping) else None
    return result


def row_of(result: dict[str, Any]) -> dict[str, Any]:
    """A result's row of the table; numbers that it lacks are None. Its texts are printable."""

    def without_seed(settings: Mapping[str, Any]) -> str:
        return content_key({key: value for key, value in settings.items() if key != "seed"})

    row = {name: _lookup(result, column.path) for name, column in columns().items()}
    sampler = row["sampler"] or ""
    row["sampler"] = sampler if isinstance(sampler, str) else sampler.get("name")
    row["kind"] = kind_of(sampler)
    row |= {column: printable(value) for column, value in row.items() if isinstance(value, str)}
    row["solver"] = f"{row['kind']}-{row['steps']}"
    for name in having_error():
        *parts, last = columns()[name].path
        row[f"{name}_se"] = _lookup(result, (*parts, f"{last}_se"))
    if row["evaluations"] is None and row["steps"] is not None and row["cached"] is not None:
        row["evaluations"] = row["steps"] * (1 - row["cached"])  # a result of an older version
    if row["evaluations"] is not None:
        row["evaluations"] = round(row["evaluations"], 6)  # 50 (1 - 0.9) is a little less than 5, and no cheaper
    row["compared"] = compared_of(result)
    row[TUNED_ON] = max((result.get(TUNED_ON) or {}).values(), default=0)
    settings = distinguishing(result["config"])
    row["measurement"] = without_seed(measurement_of(result))
    row["point"] = without_seed(settings)
    row[DISTINGUISHING] = settings
    row["way"] = without_seed(_of_any_model(settings, str(_lookup(result, ("config", "model", "name")))))
    return row


def _of_any_model(settings: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Settings without the model and its files, also where a found schedule's or learned weights' file has its name."""

    def part(options: Any) -> Any:
        named = {} if not isinstance(options, Mapping) else {key: options.get(key) for key in ("path", "timesteps")}
        names = {key: PurePath(path).name.replace(model, "{model}") for key, path in named.items() if path}
        return {**options, **names} if names else options

    return {key: part(value) for key, value in settings.items() if key not in ("model", FILES)}


def table(results: list[dict[str, Any]]) -> pd.DataFrame:
    """One row a run, one column a number, sorted by measurement, cost and method.

    Beside `goc.report.columns.columns`: NAME_se, the standard errors; `solver`, the sampler with its settings and
    steps, and `kind`, without the steps; `compared`, how many samples were also made without a cache; `measurement`,
    equal for runs that differ in nothing but the way and the seed; `point`, equal for runs that differ in nothing but
    the seed; `way`, equal for runs that differ in nothing but the model and the seed.
    """
    errors = [f"{column}_se" for column in having_error()]
    names = [*columns(), *errors, "kind", "solver", "measurement", *INTERNAL]
    frame = pd.DataFrame([row_of(result) for result in results], columns=names)
    # a column of None alone is one of numbers that are not known
    frame = frame.assign(**{name: pd.to_numeric(frame[name]) for name in (*qualities(), *cost(), *errors)})
    order = ["model", "cfg_scale", "measurement", "evaluations", "method", "steps", "kind", "weights",
             "inflection_threshold", "seed"]  # fmt: skip
    frame = frame.assign(weights=frame["gradient_weights"].map(str))
    return frame.sort_values(order, kind="stable", ignore_index=True).drop(columns="weights")


def over_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with one row for each point: the mean over its seeds, and `NAME_spread`, the standard deviation.

    `seed` lists the seeds. Standard errors are those of the mean. Points of a single run have no spread; without any
    other point there are no such columns.
    """
    measured = [*qualities(), *cost()]
    errors = [f"{column}_se" for column in having_error()]
    frame = frame.reset_index(drop=True)
    records = frame.to_dict("records")
    numbers, squares = frame[measured].astype(float), frame[errors].astype(float) ** 2
    rows = []
    for places in frame.groupby(["measurement", "point"], sort=False).indices.values():
        places = frame.iloc[places]["seed"].drop_duplicates().index  # a seed has one vote, wherever the rows are from
        row = records[places[0]]
        row[TUNED_ON] = max(records[place][TUNED_ON] for place in places)
        row["seed"] = ",".join(map(str, sorted(records[place]["seed"] for place in places)))
        if len(places) > 1:
            row |= numbers.loc[places].mean().to_dict()
            row |= numbers.loc[places].std(ddof=1).add_suffix("_spread").to_dict()
            row |= (squares.loc[places].sum(min_count=len(places)) ** 0.5 / len(places)).to_dict()
        rows.append(row)
    return pd.DataFrame(rows)


def is_uncached(frame: pd.DataFrame) -> pd.Series:
    """Which rows compute everything."""
    return frame["cached"] == 0


def method_names(frame: pd.DataFrame) -> pd.Series:
    """Each run's method, with those settings that differ between runs of one method; "no cache" without one."""
    names = frame["method"].astype(str)
    for setting, short in SETTINGS.items():
        values = frame[setting].map(lambda value: "none" if value is None or value != value else str(value))
        varies = values.groupby([frame["method"], frame["measurement"]]).transform("nunique") > 1
        names = names.where(~varies, names + f", {short} " + values)
    return names.mask(is_uncached(frame) & (names == "none"), "no cache")


def series_names(frame: pd.DataFrame) -> pd.Series:
    """A name for the line each run belongs to.

    Its method's name, with its solver where cached runs have several; without a cache, where there are several solvers,
    the kind of solver with fewer steps.
    """
    names, uncached = method_names(frame), is_uncached(frame)
    if frame.loc[~uncached, "solver"].nunique() > 1:
        names = names.where(uncached, names + ", " + frame["solver"])
    several = frame["solver"].where(uncached).groupby(frame["measurement"]).transform("nunique") > 1
    return names.mask(uncached & several, frame["kind"] + ", fewer steps")


def full_evaluations(frame: pd.DataFrame) -> pd.Series:
    """Network evaluations of each row's uncached run."""
    return frame["evaluations"].astype(float) / (1.0 - frame["cached"].astype(float))


def speedup(frame: pd.DataFrame) -> pd.Series:
    """Measured speed-up of each row over the longest uncached trajectory among them; NaN if it was not timed.

    Rows were timed beside the uncached run of their own solver, and those are laid beside each other by their number
    of evaluations.
    """
    full = full_evaluations(frame)
    ratio = frame["latency_ratio"].astype(float).where(~is_uncached(frame) | frame["latency_ratio"].isna(), 1.0)
    return full.max() / (ratio * full)
