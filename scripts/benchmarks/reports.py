"""Made-up runs by the thousand, and what a report on them costs."""

import json
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np

from goc.report import study
from goc.report.results import FIRST_IMAGES, RESULT_FILE, write_influence

METHODS = ("reuse", "goc", "taylorseer", "searched_learned", "uniform+hicache")
STEPS = (10, 20, 50, 100)
SEVERAL = ("fid", "is", "drift", "relative_l2", "psnr_image", "ssim")  # what each sample contributes to


def result_of(number: int, samples: int) -> dict[str, Any]:
    """A made-up result: of every twenty-fifth run that of an uncached one, else of a cache with settings of its own."""
    generator = np.random.default_rng(number)
    uncached = number % 25 == 0
    steps = 10 + number // 25 if uncached else STEPS[number % len(STEPS)]
    cached = 0.0 if uncached else float(generator.integers(1, steps)) / steps
    method = "none" if uncached else METHODS[number % len(METHODS)]
    fid = 2.0 + 6.0 / (steps * (1 - cached)) + 0.2 * generator.random()
    shares = [0.0] + [cached] * (steps - 1)
    distance = {"mse": cached / 100, "relative_l2": cached, "psnr": 40 - 20 * cached}
    for name in ("drift", "relative_l2_mean", "relative_l2_median", "relative_l2_p95", "psnr_image", "ssim"):
        distance |= {name: cached * (1 + generator.random()), f"{name}_se": 0.01}
    return {
        "method": method,
        "config": {
            "sampler": "ddim", "steps": steps, "num_samples": samples, "batch_size": 100, "seed": 0, "cfg_scale": 1.5,
            "gradient_weights": [1.0], "inflection_threshold": number % 7 / 10, "calibration_seed": number,
            "cache_ratio": None if uncached else cached, "schedule": {"name": "uniform"},
            "predictor": {"name": method}, "model": {"name": "made-up", "family": None}, "name": "benchmark",
        },
        "metrics": {"fid": fid, "fid_se": 0.1, "is": 200 + fid, "is_se": 2.0, "precision": 0.7, "precision_se": 0.01,
                    "recall": 0.6, "recall_se": 0.01, "kid": fid / 1000, "kid_se": 0.0001},
        "distance": {} if uncached else distance,
        "converged": {"mean": fid / 10, "mean_se": 0.01, "median": fid / 11, "median_se": 0.01, "accuracy": 0.001},
        "cost": {"cache_ratio": cached, "evaluations": steps * (1 - cached), "macs_saved": cached,
                 "gmacs_per_image": 118.0 * steps * (1 - cached), "ms_per_image": 10.0,
                 "latency_ratio": 1 - 0.9 * cached},
        "inflection": {"alignment": [None, *generator.random(steps - 1).tolist()]},
        "amplification": 2.0,
        "cached_steps": None if uncached else list(range(1, steps)),
        "cached_share": [0.0] * steps if uncached else shares,
        "measurement": {"model": "made-up", "num_samples": samples, "seed": 0, "extractor": "inception"},
    }  # fmt: skip


def make_run(run: Path, number: int, samples: int) -> dict[str, Any]:
    """Write a made-up run: its result, influences of so many samples, and first images 3 x 32 x 32."""
    generator, common = np.random.default_rng(number), np.random.default_rng(0).normal(size=samples)
    run.mkdir(parents=True)
    result = result_of(number, samples)
    (run / RESULT_FILE).write_text(json.dumps(result), encoding="utf-8")
    names = SEVERAL if result["distance"] else SEVERAL[:2]
    write_influence(run, {name: common + 0.1 * generator.normal(size=samples) for name in names})
    np.save(run / FIRST_IMAGES, generator.integers(0, 256, (8, 3, 32, 32), dtype=np.uint8))
    return result


def make_runs(folder: Path, count: int, samples: int) -> None:
    """Write that many of them."""
    for number in range(count):
        make_run(folder / f"run-{number:05d}", number, samples)


def main(folder: str) -> int:
    """Report on a folder, and print as the last line what that cost this process."""
    code = study.main([folder])
    usage = resource.getrusage(resource.RUSAGE_SELF)
    size = (Path(folder) / "report.html").stat().st_size
    cost = {"cpu_s": usage.ru_utime + usage.ru_stime, "peak_mib": usage.ru_maxrss / 1024, "page_mb": size / 1e6}
    print(json.dumps(cost))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
