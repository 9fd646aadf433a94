"""Full and cached steps of FLUX's and Wan's transformers of diffusers, at both sites, beside others' caches there."""

from typing import Any

import pandas as pd
import torch

from goc.check import shapes, step_times
from goc.check.peers import is_peer
from goc.check.setting import Outcome, Setting, Table
from goc.check.step_table import chosen
from goc.check.steps import STEP_COLUMNS
from goc.check.transformers import PipelineLoad, contenders
from goc.system.device import choose_device, configure

STEPS = 6  # of a trajectory
COLUMNS = {"model": "transformer", **STEP_COLUMNS}
BRANCH, STACK = "goc 50 %", "goc stack 50 %"
TINY_ROWS = [BRANCH, STACK, "diffusers first block 50 %"]


def check(setting: Setting) -> Outcome:
    """The setting's transformers, one sample in bf16 (tiny: fp32). A row of ours without numbers is a failure."""
    device, dtype = choose_device(setting.device), torch.float32 if setting.is_tiny else torch.bfloat16
    configure(device, "fp32", deterministic=False, threads=None)
    frames, failures, findings = [], [], []
    for shape in shapes.TINY if setting.is_tiny else shapes.FULL:
        load = PipelineLoad(shape, shape.random(device, dtype), 1, STEPS, device, dtype)
        entries = chosen(list(contenders(load)), TINY_ROWS if setting.is_tiny else None)
        frame = step_times.table(entries, load, setting.repeats).assign(model=shape.name)
        for kind in ("full", "cached"):
            frame[f"{kind}_median_ms"] = 1e3 * frame[f"{kind}_median_s"]
        frames.append(frame)
        failures += [
            f"{shape.name}, {row['method']}: {row['note']}"
            for row in frame.to_dict("records")
            if row["note"] and not is_peer(row["method"])
        ]
        findings.append(f"{shape.name}: {said(frame)}")
    return Outcome(table(pd.concat(frames, ignore_index=True)), failures, findings)


def said(frame: pd.DataFrame) -> str:
    """The sentence of one transformer: its cached steps, and the quickest one of others."""
    rows = frame.set_index("method")
    cached = rows["cached_median_ms"]
    text = (
        f"a full step takes {rows['full_median_ms'].get('none', float('nan')):.3g} ms, a cached one of GOC "
        f"{cached.get(BRANCH, float('nan')):.3g} ms, at site=stack {cached.get(STACK, float('nan')):.3g} ms"
    )
    peers: pd.Series[Any] = cached[[is_peer(name) for name in cached.index]].dropna()
    if peers.empty:
        return f"{text}; no cache of others ran."
    return f"{text}; the quickest of others, {peers.idxmin()}, {peers.min():.3g} ms."


def table(frame: pd.DataFrame) -> Table:
    """The part's table."""
    return Table(
        "transformers",
        "Caches in diffusers' transformers",
        f"Trajectories of {STEPS} steps of one sample through diffusers' FLUX and Wan, of four blocks of the published "
        "width with random weights, in bf16; without text encoder and decoder. As in the tables of steps otherwise, "
        "with the pipeline's hooks (docs/pipelines.md).",
        frame,
        COLUMNS,
    )
