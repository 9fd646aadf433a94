"""What is measured in an uncached run of the calibration seeds, kept on disk by all that it depends on."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from goc.caching.cache import StepCache
from goc.sampling.generation import Generation
from goc.system.files import content_key, write_atomically

log = logging.getLogger(__name__)


def shared_path(cache_dir: Path, kind: str, key: dict[str, Any]) -> Path:
    """Where something that several runs share is kept: named by all that it depends on."""
    cache_dir.mkdir(parents=True, exist_ok=True)
    return cache_dir / f"{kind}-{content_key(key)}"


@dataclass(frozen=True)
class Calibration:
    """An uncached run of `samples` samples of `seed`, that recorders look at.

    key: what its trajectories depend on apart from the seeds.
    """

    generation: Generation
    key: dict[str, Any]
    seed: int
    samples: int
    batch_size: int
    cache_dir: Path

    def measured(self, kind: str, recorder: StepCache, measure: Callable[[], Tensor], **settings: Any) -> Tensor:
        """What measure() gives after the recorder saw the run; from disk if it was measured before.

        kind names it; settings are what else it depends on.
        """
        key = {**self.key, **settings, "seed": self.seed, "samples": self.samples}
        path = shared_path(self.cache_dir, kind, key).with_suffix(".safetensors")
        with FileLock(path.with_suffix(".lock")):
            if path.exists():
                try:
                    return load_file(path)[kind]
                except (SafetensorError, OSError, KeyError) as error:
                    log.warning("%s is damaged (%s): it is measured again", path, error)
            generation = replace(self.generation, new_cache=lambda: recorder, seed=self.seed)
            for start in range(0, self.samples, self.batch_size):
                generation.make(range(start, min(start + self.batch_size, self.samples)))
            measured = measure()
            write_atomically(path, save({kind: measured}, metadata={"key": json.dumps(key)}))
            return measured
