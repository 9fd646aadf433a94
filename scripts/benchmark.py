"""Measures what the project promises about its own cost, one table a subject, also as JSON in outputs/benchmark/.

    python scripts/benchmark.py memory      peak memory of 50,000 samples against 2,000
    python scripts/benchmark.py overhead    where the time of a run goes, beside the denoiser
    python scripts/benchmark.py steps       full and cached steps of every method and of peers, side by side
    python scripts/benchmark.py pipelines   the same in diffusers' DiT and FLUX
    python scripts/benchmark.py pipeline    images a second from noise to result.json, and hours for 50,000
    python scripts/benchmark.py precision   what bf16 costs in quality, and what it saves
    python scripts/benchmark.py held        what a cache holds in 16 and in 8 bits, and what that costs in quality
    python scripts/benchmark.py uncertainty what the error of a FID costs at Inception's size
    python scripts/benchmark.py reports     what a report on a thousand runs costs, and on ten thousand
    python scripts/benchmark.py roofline    least time of these steps on an H100, from the shapes alone

What follows a subject is its own: settings as for run.py (python scripts/benchmark.py overhead num_samples=500), or
options (python scripts/benchmark.py steps --help). docs/performance.md says what the tables mean.
"""

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from benchmarks import held_values
from benchmarks import reports as report_runs

import goc.runs.denoiser
import goc.runs.made
import goc.runs.measure
import goc.runs.run
import goc.sampling.generation
from goc.check import roofline as roofline_estimates
from goc.check import shapes, step_times, transformers
from goc.check.pipeline_rates import pipeline
from goc.check.step_table import check_counts, chosen, machine, model_options, steps
from goc.config import compose_config
from goc.metrics.distance import distance
from goc.metrics.errors import standard_error
from goc.metrics.features import Extractor
from goc.metrics.statistics import moments
from goc.metrics.uncertainty import FrechetInfluence
from goc.models.decoder import DOWNSAMPLING
from goc.models.dit import DiT
from goc.runs.loaded import Loaded
from goc.sampling.shards import SampleSet
from goc.system.arguments import check_numbers, command_parser
from goc.system.command import run_command
from goc.system.device import choose_device, configure
from goc.system.errors import GocError
from goc.system.files import write_json

RUN = Path(__file__).parent.parent / "run.py"
SIZES = (2000, 50000)
FEATURE_BATCH = 500


def memory(settings: list[str]) -> pd.DataFrame:
    """Peak resident memory of whole runs of few and of many samples, evaluation included; of few steps, to be quick."""
    script = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)"
    script += "; print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    rows = []
    for count in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            arguments = ["steps=2", "latency_repeats=0", "converged_samples=0", *settings, f"num_samples={count}"]
            arguments.append(f"cache_dir={folder}/cache")
            command = [sys.executable, str(RUN), *arguments, f"hydra.run.dir={folder}/run"]
            peak = subprocess.run([sys.executable, "-c", script, *command], check=False, capture_output=True, text=True)
        if peak.returncode:
            raise GocError((peak.stderr.strip().splitlines() or ["the run failed"])[0].removeprefix("error: "))
        rows.append({"samples": count, "peak_mib": int(peak.stdout) / 1024})
    frame = pd.DataFrame(rows)
    return frame.assign(of_the_first=frame["peak_mib"] / frame["peak_mib"].iloc[0])


def run_in(folder: Path, *settings: str) -> dict[str, Any]:
    """Result of a run with these settings; all that it writes is in the folder."""
    config = compose_config([f"cache_dir={folder}/cache", "converged_samples=0", *settings])
    result = goc.runs.run.run(config, folder / "run")
    if result is None:
        raise GocError("a benchmark is one process: start it without torchrun or srun")
    return dict(result.content)


class Stopwatch:
    """Adds up the seconds spent in functions that it replaces by timed ones; time spent in inner ones is theirs."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.inner = [0.0]

    def time(self, owner: Any, name: str, part: str) -> None:
        """Replace owner.name by a function that is timed as `part`."""
        function: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self.inner.append(0.0)
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                elapsed = time.perf_counter() - start
                self.seconds[part] += elapsed - self.inner.pop()
                self.inner[-1] += elapsed

        setattr(owner, name, timed)


def overhead(settings: list[str]) -> pd.DataFrame:
    """Share of a run's time, from its settings to result.json, that is not the denoiser's (decoding is left out)."""
    watch = Stopwatch()
    watch.time(DiT, "forward", "denoiser")
    watch.time(goc.sampling.generation, "draw", "noise and labels")
    watch.time(SampleSet, "write", "writing shards")
    watch.time(SampleSet, "read", "reading shards")
    watch.time(Extractor, "outputs", "features")
    watch.time(goc.runs.made, "evaluate", "metrics")
    watch.time(goc.runs.made, "distance", "distance to uncached")
    watch.time(goc.runs.denoiser, "decode_pixels", "decoding")
    watch.time(goc.runs.measure, "leave", "pictures and results")
    watch.time(goc.runs.run, "sources_of", "hashing files")
    watch.time(goc.runs.run, "load", "loading")
    watch.time(Loaded, "reference", "loading")
    watch.time(goc.runs.run, "run", "sampler and the rest")
    in_turn = partial(goc.runs.run.generate, overlapped=False)  # one after the other, so that each time is its part's
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(goc.runs.run, "generate", in_turn):
        run_in(Path(folder), "num_samples=2000", "latency_repeats=0", *settings)
    frame = pd.DataFrame(watch.seconds.items(), columns=["part", "seconds"]).sort_values("seconds", ascending=False)
    frame["share"] = frame["seconds"] / frame["seconds"].sum()
    besides = frame[~frame["part"].isin(["denoiser", "decoding"])]
    total = {
        "part": "all but denoiser and decoding",
        "seconds": besides["seconds"].sum(),
        "share": besides["share"].sum(),
    }
    return pd.concat([frame, pd.DataFrame([total])], ignore_index=True)


def precision(settings: list[str]) -> pd.DataFrame:
    """Samples in bf16 against the same seeds' in fp32, uncached and half cached: quality, PSNR, time."""
    rows: list[dict[str, Any]] = []
    exact = None  # images of fp32 without a cache
    with tempfile.TemporaryDirectory() as root:
        for form, method in itertools.product(("fp32", "bf16"), ("none", "reuse", "goc")):
            folder = Path(root) / f"{form}-{method}"
            choice = [f"precision={form}", f"method={method}", "cache_ratio=0.5"]
            result = run_in(folder, "num_samples=2000", "metrics=[isc,fid]", "save_images=npz", *choice, *settings)
            images = torch.from_numpy(np.load(folder / "run" / "images.npz")["arr_0"])
            exact = images if exact is None else exact
            made, reference = ({"latents": pixels, "images": pixels} for pixels in (images, exact))
            rows.append(
                {
                    "precision": form,
                    "method": method,
                    "fid": result["metrics"]["fid"],
                    "is": result["metrics"]["is"],
                    "psnr_to_fp32_uncached": distance([(made, reference)])[0]["psnr"],
                    "psnr_to_uncached": result["distance"].get("psnr"),
                    "ms_per_image": result["cost"]["ms_per_image"],
                }
            )
    frame = pd.DataFrame(rows)
    return frame.assign(speedup=frame["ms_per_image"].iloc[0] / frame["ms_per_image"])


def held(settings: list[str]) -> pd.DataFrame:
    """What caches hold in fp32, bf16 and fp8, and how far their samples are from uncached ones."""
    with tempfile.TemporaryDirectory() as root:
        shared = f"cache_dir={root}/cache"  # one uncached run for all of them
        return held_values.table(lambda folder, *choice: run_in(folder, shared, *choice), Path(root), settings)


def pipelines(settings: list[str]) -> pd.DataFrame:
    """Full and cached steps of caches in diffusers' DiT and FLUX, small, of this project and of peers, taking turns."""
    parser = argparse.ArgumentParser(prog="benchmark.py pipelines")
    names = [shape.name for shape in shapes.SMALL]
    parser.add_argument("--models", nargs="+", choices=names, default=names, help="default both")
    parser.add_argument("--batch", type=int, default=1, help="samples (default %(default)s)")
    parser.add_argument("--steps", type=int, default=6, help="of a trajectory (default %(default)s)")
    parser.add_argument(
        "--repeats", type=int, default=2, help="timed trajectories of each method (default %(default)s)"
    )
    parser.add_argument("--rows", nargs="+", help="only these, and what they are measured against (default all)")
    options = parser.parse_args(settings)
    check_counts(options)
    device = choose_device("auto")
    configure(device, "fp32", deterministic=False, threads=None)
    tables = []
    for shape in (shape for shape in shapes.SMALL if shape.name in options.models):
        base = shape.random(device, torch.float32)
        load = transformers.PipelineLoad(shape, base, options.batch, options.steps, device)
        entries = chosen(list(transformers.contenders(load)), options.rows)
        tables.append(step_times.table(entries, load, options.repeats).assign(model=shape.name))
    frame = pd.concat(tables, ignore_index=True)
    return frame[["model", *step_times.COLUMNS]]


def roofline(settings: list[str]) -> pd.DataFrame:
    """Least time of a full and a cached step on an H100 SXM."""
    options = model_options("roofline").parse_args(settings)
    return roofline_estimates.table(options.model, options.image_size // DOWNSAMPLING, options.cfg_scale != 1.0)


def uncertainty(settings: list[str]) -> pd.DataFrame:
    """Time and memory of a FID and of each sample's influence on it, on made-up features in batches."""
    parser = argparse.ArgumentParser(prog="benchmark.py uncertainty")
    parser.add_argument("--samples", type=int, default=50000, help="default %(default)s")
    parser.add_argument("--features", type=int, default=2048, help="default %(default)s")
    options = parser.parse_args(settings)
    check_numbers(options, {"samples": 2, "features": 1})
    size = options.features
    scale = torch.arange(1, size + 1) ** -0.5

    def features() -> Iterator[torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        for first in range(0, options.samples, FEATURE_BATCH):
            count = min(FEATURE_BATCH, options.samples - first)
            yield scale * torch.randn(count, size, generator=generator)

    start = time.perf_counter()
    statistics = moments(features())
    middle = time.perf_counter()
    influence = FrechetInfluence.of(statistics, np.zeros(size), np.diag(scale.numpy() ** 2.0))(features())
    end = time.perf_counter()
    row = {"samples": options.samples, "features": size, "moments_s": middle - start, "influence_s": end - middle}
    return pd.DataFrame([{**row, "error": standard_error(influence)}])


def reports(settings: list[str]) -> pd.DataFrame:
    """CPU seconds, peak memory and size of the page of a report on made-up runs, each in a process of its own."""
    parser = argparse.ArgumentParser(prog="benchmark.py reports")
    parser.add_argument("--runs", type=int, nargs="+", default=[100, 1000, 10000], help="default 100 1000 10000")
    parser.add_argument("--samples", type=int, default=1000, help="of each run (default %(default)s)")
    options = parser.parse_args(settings)
    rows = []
    for count in options.runs:
        with tempfile.TemporaryDirectory() as folder:
            report_runs.make_runs(Path(folder), count, options.samples)
            # started by a small process: Linux counts the memory of the one that starts it as its own
            start = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"
            command = [sys.executable, "-c", start, sys.executable, report_runs.__file__, folder]
            finished = subprocess.run(command, check=False, capture_output=True, text=True)
        if finished.returncode:
            raise GocError((finished.stderr.strip().splitlines() or ["the report failed"])[-1])
        lines = finished.stdout.splitlines()
        said = next((line for line in lines if line.startswith("tradeoff.png has")), "all of them")
        rows.append({"runs": count, **json.loads(lines[-1]), "picture": said})
    return pd.DataFrame(rows)


SUBJECTS = {
    "memory": memory,
    "overhead": overhead,
    "steps": steps,
    "pipelines": pipelines,
    "pipeline": pipeline,
    "precision": precision,
    "held": held,
    "uncertainty": uncertainty,
    "reports": reports,
    "roofline": roofline,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: measure one subject and print its table."""
    parser = command_parser(__doc__)
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("settings", nargs=argparse.REMAINDER, help="the subject's own")
    options = parser.parse_args(argv)
    frame = SUBJECTS[options.subject](options.settings)
    print(frame.to_string(index=False, float_format="{:.4g}".format, na_rep=""))
    path = Path("outputs/benchmark") / f"{options.subject}.json"
    about = {"command": [options.subject, *options.settings], "machine": machine()}
    write_json(path, {**about, "rows": json.loads(frame.to_json(orient="records"))})
    print(
        f"written to {path}; peak of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
