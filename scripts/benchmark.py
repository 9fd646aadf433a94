"""Measures what the project promises about its own cost, one table a subject, also as JSON in outputs/benchmark/.

    python scripts/benchmark.py memory      peak memory of 50,000 samples against 2,000
    python scripts/benchmark.py overhead    where the time of a run goes, beside the denoiser

Settings after the subject are run.py's, for overhead (python scripts/benchmark.py overhead num_samples=500).
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from hydra import compose, initialize_config_dir

import goc.experiment
import goc.generate
from goc.config import CONF, from_hydra, register
from goc.files import write_json
from goc.models.dit import DiT

RUN = Path(__file__).parent.parent / "run.py"
SIZES = (2000, 50000)


def memory(settings: list[str]) -> pd.DataFrame:
    """Peak resident memory of whole runs of few and of many samples, evaluation included; of few steps, to be quick."""
    script = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)"
    script += "; print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    rows = []
    for count in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            own = [f"num_samples={count}", "steps=2", "latency_repeats=0", f"cache_dir={folder}/cache", *settings]
            command = [sys.executable, str(RUN), *own, f"hydra.run.dir={folder}/run"]
            peak = subprocess.run([sys.executable, "-c", script, *command], check=True, capture_output=True, text=True)
        rows.append({"samples": count, "peak_mib": int(peak.stdout) / 1024})
    frame = pd.DataFrame(rows)
    return frame.assign(of_the_first=frame["peak_mib"] / frame["peak_mib"].iloc[0])


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
    watch.time(goc.generate, "draw", "noise and labels")
    watch.time(goc.generate.SampleSet, "write", "writing shards")
    watch.time(goc.generate.SampleSet, "read", "reading shards")
    watch.time(goc.experiment, "extract", "features")
    watch.time(goc.experiment, "evaluate", "metrics")
    watch.time(goc.experiment, "distance", "distance to uncached")
    watch.time(goc.experiment, "decode_pixels", "decoding")
    watch.time(goc.experiment, "plot_alignment", "pictures")
    watch.time(goc.experiment, "image_grid", "pictures")
    watch.time(goc.experiment.Sources, "of", "hashing files")
    watch.time(goc.experiment, "load_model", "loading")
    watch.time(goc.experiment, "load_extractor", "loading")
    watch.time(goc.experiment, "load_reference", "loading")
    watch.time(goc.experiment, "run", "sampler and the rest")
    register()
    with tempfile.TemporaryDirectory() as folder, initialize_config_dir(str(CONF), version_base="1.3"):
        own = ["num_samples=2000", "latency_repeats=0", f"cache_dir={folder}/cache", *settings]
        goc.experiment.run(from_hydra(compose("config", overrides=own)), Path(folder) / "run")
    frame = pd.DataFrame(watch.seconds.items(), columns=["part", "seconds"]).sort_values("seconds", ascending=False)
    frame["share"] = frame["seconds"] / frame["seconds"].sum()
    besides = frame[~frame["part"].isin(["denoiser", "decoding"])]
    total = {
        "part": "all but denoiser and decoding",
        "seconds": besides["seconds"].sum(),
        "share": besides["share"].sum(),
    }
    return pd.concat([frame, pd.DataFrame([total])], ignore_index=True)


SUBJECTS = {"memory": memory, "overhead": overhead}


def main() -> int:
    """Command line: measure one subject and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("settings", nargs="*", help="as for run.py")
    options = parser.parse_args()
    frame = SUBJECTS[options.subject](options.settings)
    print(frame.to_string(index=False, float_format="{:.4g}".format))
    path = Path("outputs/benchmark") / f"{options.subject}.json"
    write_json(path, json.loads(frame.to_json(orient="records")))
    print(
        f"written to {path}; peak of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
