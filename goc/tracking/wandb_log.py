"""What Weights & Biases is told: one run for each run, and one for the summary of a study."""

import contextlib
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import wandb
from PIL import Image
from wandb.errors import Error as WandbError

from goc.config import WandbConfig
from goc.config.identity import distinguishing
from goc.report.cells import computed_steps
from goc.report.collect import find, tell
from goc.report.columns import of_plugins, titles
from goc.report.frame import INTERNAL, is_uncached, method_names, over_seeds, row_of, series_names, table
from goc.report.front import beyond
from goc.report.result import Result, summary
from goc.report.steps import plot_steps
from goc.report.tables import measurements
from goc.report.terminal import ROWS, best_rows, table_cells
from goc.report.text import printable
from goc.system.errors import GocError
from goc.system.files import content_key

__all__ = ["WandbError", "log_run", "log_summary"]

PICTURES = ("samples", "alignment")  # NAME.png in a run's folder
LONGEST_ARTIFACT = 100  # characters of a name; the server takes 128
CLOSEST = "Which ends closest to the converged solution, at which cost?"
FAITHFUL = "Which stays closest to its run without a cache?"
# the panels of a study: of a group's columns the first that was measured answers its question
QUESTIONS = {("converged",): CLOSEST, ("relative_l2_mean", "drift", "mse"): FAITHFUL}
IMAGES = ("fid", "fd_dinov2", "clip")  # each has a question of its own, and plugins' metrics
TIMES = ("ms_per_image", "latency_ratio")
ARTIFACTS = (".csv", ".md", ".tex", ".html", ".png", ".yaml")  # files in a study's folder


def log_run(settings: WandbConfig, folder: Path) -> str:
    """Log the finished run in a folder: config, numbers, its table, samples and steps. Returns a line that says where.

    A run has the same id each time, so that logging it again replaces it. Raises GocError if the run has not
    finished, WandbError if it cannot be logged.
    """
    result = dict(Result.load(folder).content)
    config, study = result["config"], _study_of(result)
    key = content_key([config.get("name"), folder.name, distinguishing(config), result.get("fingerprint")])
    with _session(settings, folder, key, folder.name, study, "run", config) as (run, place):
        paths = {name: folder / f"{name}.png" for name in PICTURES}
        pictures = {name: wandb.Image(str(path)) for name, path in paths.items() if path.exists()}
        rows: list[Any] = [list(row) for row in summary(result, folder)]
        shown = {"table": wandb.Table(columns=["of the run", "value"], data=rows)}
        run.log({**numbers(result), **pictures, **_steps(result), **shown})
        run.summary.update({key: result.get(key) for key in ("method", "fingerprint", "git_commit", "device")})
    return place


def _steps(result: dict[str, Any]) -> dict[str, wandb.Image]:
    """The picture of a run's steps; nothing where which are computed is not recorded."""
    row = row_of(result)
    computed = computed_steps(row)
    if not computed:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "steps.png"
        plot_steps(computed, f"{row['method']}, {row['solver']}", path)
        with Image.open(path) as picture:
            return {"steps": wandb.Image(picture)}


def _study_of(result: dict[str, Any]) -> str:
    return printable(result["config"].get("name") or "goc")


def numbers(result: dict[str, Any]) -> dict[str, float]:
    """Every number a run measured: metrics/fid, distance/mse, cost/macs_saved, ..."""
    parts = ("metrics", "distance", "converged", "cost")
    every = {f"{part}/{name}": value for part in parts for name, value in (result.get(part) or {}).items()}
    return {name: value for name, value in every.items() if value is not None}


def log_summary(settings: WandbConfig, folder: Path) -> str:
    """Log the study in a folder: its table, a panel for each question, its pictures, and its files.

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


def questions(rows: pd.DataFrame) -> dict[str, str]:
    """The questions that a measurement's rows can answer, by the column that answers them."""
    by_column = {}
    for group, question in QUESTIONS.items():
        if (column := next((name for name in group if rows[name].notna().any()), None)) is not None:
            by_column[column] = question
    images = [name for name in (*IMAGES, *of_plugins()) if name in rows and rows[name].notna().any()]
    return by_column | {name: f"Which has the best {titles(name)[0]}, at which cost?" for name in images}


def charts(points: pd.DataFrame) -> dict[str, Any]:
    """One panel a question, by its key: lines of quality against evaluations, bars of time, and a table of the best.

    points: `goc.report.frame.over_seeds`. Runs of different measurements never share a chart. A single uncached run is
    a level. Rows far beyond the others are left out of lines, which would be flat beside them, and counted.
    """
    points = points.assign(series=series_names(points))
    made: dict[str, Any] = {}
    parts = measurements(points)
    for name, rows in parts:
        of_which = "" if len(parts) == 1 else f" ({name})"
        for quality, question in questions(rows).items():
            far = beyond(rows, quality)
            lines = curves(rows[~far], quality)
            left_out = f", without {far.sum()} rows far beyond" if far.any() else ""
            xs, ys = ([[point[axis] for point in line] for line in lines.values()] for axis in (0, 1))
            title = f"{question} ({titles(quality)[1]}{left_out}; {name})"
            made[f"tradeoff/{quality}{of_which}"] = wandb.plot.line_series(
                xs, ys, list(lines), title, "network evaluations"
            )
        if (time := next((column for column in TIMES if rows[column].notna().any()), None)) is not None:
            timed = rows[rows[time].notna()].sort_values(time)
            names = (
                method_names(timed) + ", " + timed["solver"] + timed["evaluations"].map(", {:.4g} evaluations".format)
            )
            bars = wandb.Table(columns=["run", time], data=[list(row) for row in zip(names, timed[time], strict=True)])
            title = f"What does each cost in time? ({titles(time)[1]}; {name})"
            made[f"cost/time{of_which}"] = wandb.plot.bar(bars, "run", time, title)
        heads, *cells = table_cells(best_rows(rows, ROWS))
        made[f"tradeoff/best{of_which}"] = wandb.Table(columns=list(heads), data=list[Any](cells))
    return made


def curves(rows: pd.DataFrame, quality: str) -> dict[str, list[tuple[float, float]]]:
    """(evaluations, quality) of the points of one measurement, in order, for each line of the trade-off picture."""
    rows = rows.assign(evaluations=rows["evaluations"].astype(float)).dropna(subset=[quality])
    lines = {
        str(name): list(zip(points["evaluations"], points[quality], strict=True))
        for name, points in rows.sort_values("evaluations").groupby("series")
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
