"""What Weights & Biases is told: one run for each run, and one for the summary of a study."""

import contextlib
import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import wandb
from wandb.errors import Error as WandbError

from goc.config import WandbConfig
from goc.config.identity import distinguishing
from goc.report.collect import find, tell
from goc.report.frame import INTERNAL, is_uncached, over_seeds, series_names, table
from goc.report.plots import QUALITY
from goc.report.result import Result
from goc.report.tables import measurements
from goc.report.text import printable
from goc.system.errors import GocError
from goc.system.files import content_key

__all__ = ["WandbError", "log_run", "log_summary"]

PICTURES = ("samples", "alignment")  # NAME.png in a run's folder
LONGEST_ARTIFACT = 100  # characters of a name; the server takes 128
ARTIFACTS = (".csv", ".md", ".tex", ".html", ".png", ".yaml")  # files in a study's folder


def log_run(settings: WandbConfig, folder: Path) -> str:
    """Log the finished run in a folder: config, numbers, pictures. Returns a line that says where.

    A run has the same id each time, so that logging it again replaces it. Raises GocError if the run has not
    finished, WandbError if it cannot be logged.
    """
    result = dict(Result.load(folder).content)
    config, study = result["config"], _study_of(result)
    key = content_key([config.get("name"), folder.name, distinguishing(config), result.get("fingerprint")])
    with _session(settings, folder, key, folder.name, study, "run", config) as (run, place):
        paths = {name: folder / f"{name}.png" for name in PICTURES}
        run.log({**numbers(result), **{name: wandb.Image(str(path)) for name, path in paths.items() if path.exists()}})
        run.summary.update({key: result.get(key) for key in ("method", "fingerprint", "git_commit", "device")})
    return place


def _study_of(result: dict[str, Any]) -> str:
    return printable(result["config"].get("name") or "goc")


def numbers(result: dict[str, Any]) -> dict[str, float]:
    """Every number a run measured: metrics/fid, distance/mse, cost/macs_saved, ..."""
    parts = ("metrics", "distance", "converged", "cost")
    every = {f"{part}/{name}": value for part in parts for name, value in (result.get(part) or {}).items()}
    return {name: value for name, value in every.items() if value is not None}


def log_summary(settings: WandbConfig, folder: Path) -> str:
    """Log the study in a folder: its table, quality against MACs saved as charts and picture, and its files.

    Returns a line that says where. Raises GocError without a finished run, WandbError if it cannot be logged.
    """
    collected = find([folder])
    tell(collected.skipped)
    runs = collected.runs
    if not runs:
        raise GocError(f"no finished run below {folder}")
    study = _study_of(runs[0][1])
    frame = table([result for _, result in runs])
    key = content_key([study, folder.resolve().name, "summary"])
    with _session(settings, folder, key, f"{study} summary", study, "summary", {}) as (run, place):
        pictures = {f"pictures/{path.stem}": wandb.Image(str(path)) for path in sorted(folder.glob("*.png"))}
        shown = frame.drop(columns=INTERNAL)
        columns: list[str | int] = list(shown.columns)
        rows: list[Any] = [[_cell(value) for value in row] for row in shown.itertuples(index=False)]
        run.log({"results": wandb.Table(columns=columns, data=rows), **charts(over_seeds(frame)), **pictures})
        run.summary.update({"runs": len(runs)})
        os.environ.setdefault("WANDB_DATA_DIR", run.settings.sync_dir)  # where an artifact's files wait for the server
        artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", study)[:LONGEST_ARTIFACT] + "-results", type="results")
        for path in sorted(folder.iterdir()):
            if path.suffix in ARTIFACTS and path.is_file():
                artifact.add_file(str(path))
        run.log_artifact(artifact)
    return place


def charts(points: pd.DataFrame) -> dict[str, Any]:
    """Native line charts of quality against network evaluations, one line a series; a single uncached run as a level.

    points: `goc.report.frame.over_seeds`. Runs of different measurements never share a chart.
    """
    points = points.assign(series=series_names(points))
    made = {}
    parts = measurements(points)
    for name, rows in parts:
        for quality, title in QUALITY.items():
            lines = curves(rows, quality)
            if lines:
                xs, ys = ([[point[axis] for point in line] for line in lines.values()] for axis in (0, 1))
                key = f"tradeoff/{quality}" + ("" if len(parts) == 1 else f" ({name})")
                made[key] = wandb.plot.line_series(xs, ys, list(lines), f"{title}; {name}", "network evaluations")
    return made


def curves(rows: pd.DataFrame, quality: str) -> dict[str, list[tuple[float, float]]]:
    """(evaluations, quality) of the points of one measurement, in order, for each line of the trade-off picture."""
    rows = rows.assign(evaluations=rows["evaluations"].astype(float)).dropna(subset=[quality])
    lines = {
        str(name): list(zip(own["evaluations"], own[quality], strict=True))
        for name, own in rows.sort_values("evaluations").groupby("series")
    }
    for name in rows.loc[is_uncached(rows), "series"].unique():
        if len(lines[name]) == 1:  # a level
            ((evaluations, level),) = lines[name]
            lines[name] = [(float(rows["evaluations"].min()), level), (evaluations, level)]
    return lines


def _cell(value: Any) -> Any:
    """A value of the results table as a W&B table has it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return str(value) if isinstance(value, list) else value


@contextlib.contextmanager
def _session(
    settings: WandbConfig, folder: Path, key: str, name: str, study: str, job: str, config: dict[str, Any]
) -> Iterator[tuple[wandb.Run, str]]:
    """A W&B run, and a line that says where it is; its local files are in folder/wandb, in place of earlier ones."""
    with wandb.init(
        project=settings.project,
        entity=settings.entity,
        group=settings.group or study,
        mode=_mode(settings.mode),
        id=key,
        name=name,
        job_type=job,
        config=config,
        dir=str(folder),
        # what W&B would find out by itself is about the process that logs, not about the run
        settings=wandb.Settings(
            console="off", disable_git=True, x_disable_meta=True, x_disable_stats=True, x_save_requirements=False
        ),
    ) as run:
        local = Path(run.settings.sync_dir)
        place = f"tracked: {run.url or os.path.relpath(local) + ', which `wandb sync` sends to Weights & Biases'}"
        yield run, place
    for earlier in local.parent.glob(f"*run-*-{key}"):
        if earlier.is_dir() and not earlier.is_symlink() and earlier.name != local.name:
            shutil.rmtree(earlier)


def _mode(mode: str | None) -> Any:
    """What wandb.init takes for `mode`: the user's choice, else WANDB_MODE (None), else by whether one is logged in."""
    if mode is None and "WANDB_MODE" not in os.environ:
        return "online" if wandb.login(prompt=False) else "offline"
    return mode
