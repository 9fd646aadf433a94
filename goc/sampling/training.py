"""How far a training has come, kept on disk after each iteration, so that one that was stopped goes on."""

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from goc.sampling.shared import shared_path
from goc.system.files import room_for, write_atomically
from goc.system.locks import Lock
from goc.system.sealed import UnusableError, sealed, unsealed
from goc.system.stopping import keeping

KIND = "training"
DONE = "the iterations done so far are kept"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what Adam holds

log = logging.getLogger(__name__)


class Progress:
    """Of one training of one parameter with Adam: what decides all iterations to come."""

    def __init__(self, path: Path, key: dict[str, Any]) -> None:
        self.path, self.key = path, key

    def resume(self, parameter: Tensor, optimizer: torch.optim.Adam, random: torch.Generator) -> list[float]:
        """Bring all three to where the training was stopped, if it was; returns the losses up to there.

        A file that is damaged, or of another training, is not gone on with, with a warning.
        """
        try:
            kept = unsealed(self.path, self.key)
            moments = {name: kept[name] for name in MOMENTS}
            losses, state = kept["losses"].tolist(), kept["random"]
            values = kept["parameter"].reshape(parameter.shape)
        except FileNotFoundError:
            return []
        except (UnusableError, KeyError, RuntimeError) as error:
            reason = error if isinstance(error, UnusableError) else f"is damaged ({error})"
            log.warning("%s %s: the training begins anew", self.path, reason)
            return []
        with torch.no_grad():
            parameter.copy_(values)
        on_device = {name: tensor.to(parameter.device) for name, tensor in moments.items() if name != "step"}
        optimizer.state[parameter] = {"step": moments["step"], **on_device}
        random.set_state(state)
        return losses

    def keep(
        self, parameter: Tensor, optimizer: torch.optim.Adam, random: torch.Generator, losses: list[float]
    ) -> None:
        """After an iteration: put it on disk. Raises GocError if there is no room."""
        tensors = {name: optimizer.state[parameter][name].cpu() for name in MOMENTS}
        tensors |= {"parameter": parameter.detach().cpu().contiguous(), "random": random.get_state()}
        tensors["losses"] = torch.tensor(losses, dtype=torch.float64)
        with room_for(self.path, DONE):
            write_atomically(self.path, sealed(tensors, self.key))


@contextlib.contextmanager
def progress_of(cache_dir: Path, key: dict[str, Any]) -> Iterator[Progress]:
    """The progress of the training that depends on a key, for one process alone; forgotten when this comes to its end.

    What the training makes is to be written before that end, so that it is never trained again for a kill in between.
    """
    key = json.loads(json.dumps({**key, "torch": torch.__version__}))
    path = shared_path(cache_dir, KIND, key).with_suffix(".safetensors")
    with Lock(path.with_suffix(".lock")), keeping(f"{DONE}; the same command goes on from there"):
        yield Progress(path, key)
        path.unlink(missing_ok=True)
