"""Full and cached steps of the setting's model through benchmark.py steps, one table for each case."""

import contextlib
import shlex
from functools import partial
from unittest import mock

import torch

from goc.check.peers import is_peer
from goc.check.setting import Case, Outcome, Setting, Table
from goc.check.step_table import steps

STEP_COLUMNS = {
    "method": "row",
    "cached_share": "cached steps of 20, share",
    "full_median_ms": "full step, ms ↓",
    "cached_median_ms": "cached step, ms ↓",
    "cached_of_full_median": "cached / full ↓",
    "images_per_s": "images/s ↑",
    "speedup": "speed-up ↑",
    "ideal": "speed-up if cached steps were free",
    "peak_mib": "peak above the model, MiB ↓",
    "note": "why no numbers",
}
COMPILED_COLUMNS = {**STEP_COLUMNS, "graphs": "graphs", "recompiled": "compiled too late"}
EXAMPLE = "goc 50 %"


def options(setting: Setting, case: Case) -> list[str]:
    """What is given to benchmark.py steps."""
    rows = setting.rows if case == setting.cases[0] else setting.few_rows
    named = {
        "--model": setting.model,
        "--image-size": setting.image_size,
        "--cfg-scale": setting.cfg_scale,
        "--batch": case.batch,
        "--precision": case.precision,
        "--steps": setting.steps,
        "--repeats": setting.repeats,
    }
    return [
        *(str(word) for pair in named.items() for word in pair),
        *(["--compile"] if case.compiled else []),
        *(["--rows", *rows] if rows else []),
    ]


def check(setting: Setting, case: Case) -> Outcome:
    """One case. Graphs that are compiled in a timed trajectory are a failure, and so is a row of ours without numbers.

    In the tiny setting torch.compile traces, and makes no code of it: that would take minutes.
    """
    told = options(setting, case)
    traced = mock.patch.object(torch, "compile", partial(torch.compile, backend="eager"))
    with traced if setting.is_tiny else contextlib.nullcontext():
        frame = steps(told)
    for kind in ("full", "cached"):
        frame[f"{kind}_median_ms"] = 1e3 * frame[f"{kind}_median_s"]
    failures, findings = [], []
    for row in frame.to_dict("records"):
        if row["note"] and not is_peer(row["method"]):
            failures.append(f"{row['method']}: {row['note']}")
        if row["recompiled"] > 0:
            failures.append(f"{row['method']}: {row['recompiled']:.0f} graphs compiled in timed trajectories")
        if row["method"] == EXAMPLE and not row["note"]:
            findings.append(
                f"{EXAMPLE}: a cached step takes {row['cached_median_ms']:.3g} ms, a full one "
                f"{row['full_median_ms']:.3g} ms; {row['images_per_s']:.3g} images/s, {row['speedup']:.3g} times the "
                "uncached model's."
            )
    table = Table(
        case.name,
        f"Steps: {case.title}",
        f"python scripts/benchmark.py steps {shlex.join(told)}. Times are medians; images/s and speed-up are those of "
        "DDIM-20 with the row's schedule, against the same model uncached. Random weights. docs/performance.md says "
        "what the rows are.",
        frame,
        COMPILED_COLUMNS if case.compiled else STEP_COLUMNS,
    )
    return Outcome(table, failures, findings)
