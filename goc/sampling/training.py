"""How far a training has come, kept on disk after each iteration, so that one that was stopped goes on."""

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
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
    """Of one training with Adam: what decides all iterations to come.

    The parameters are those that Adam trains, under names of their own; "" of one alone. others: further tensors that
    each iteration changes, such as an average of the parameters.
    """

    def __init__(self, path: Path, key: dict[str, Any]) -> None:
        self.path, self.key = path, key

    def resume(
        self,
        parameters: Mapping[str, Tensor],
        optimizer: torch.optim.Adam,
        random: torch.Generator,
        others: Mapping[str, Tensor] | None = None,
    ) -> list[float]:
        """Bring all of them to where the training was stopped, if it was; returns the losses up to there.

        A file that is damaged, or of another training, is not gone on with, with a warning.
        """
        wanted = {_name("parameter", name): tensor for name, tensor in parameters.items()} | dict(others or {})
        try:
            kept = unsealed(self.path, self.key)
            values = {name: kept[name].reshape(tensor.shape) for name, tensor in wanted.items()}
            moments = {name: {moment: kept[_name(moment, name)] for moment in MOMENTS} for name in parameters}
            losses, state = kept["losses"].tolist(), kept["random"]
        except FileNotFoundError:
            return []
        except (UnusableError, KeyError, RuntimeError) as error:
            reason = error if isinstance(error, UnusableError) else f"is damaged ({error})"
            log.warning("%s %s: the training begins anew", self.path, reason)
            return []
        with torch.no_grad():
            for name, tensor in wanted.items():
                tensor.copy_(values[name])
        for name, parameter in parameters.items():
            on_device = {moment: tensor.to(parameter.device) for moment, tensor in moments[name].items()}
            optimizer.state[parameter] = on_device | {"step": moments[name]["step"]}
        random.set_state(state)
        return losses

    def keep(
        self,
        parameters: Mapping[str, Tensor],
        optimizer: torch.optim.Adam,
        random: torch.Generator,
        losses: list[float],
        others: Mapping[str, Tensor] | None = None,
    ) -> None:
        """After an iteration: put it on disk. Raises GocError if there is no room."""
        tensors = {_name("parameter", name): tensor for name, tensor in parameters.items()} | dict(others or {})
        for name, parameter in parameters.items():
            tensors |= {_name(moment, name): optimizer.state[parameter][moment] for moment in MOMENTS}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        tensors |= {"random": random.get_state(), "losses": torch.tensor(losses, dtype=torch.float64)}
        with room_for(self.path, DONE):
            write_atomically(self.path, sealed(tensors, self.key))


def _name(what: str, parameter: str) -> str:
    return f"{what}.{parameter}" if parameter else what


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
