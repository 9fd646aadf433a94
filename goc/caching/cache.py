"""Runs a schedule and a predictor inside the denoiser's forward pass."""

from torch import Tensor

from goc.caching.predictor import Predictor


class FeatureCache:
    """The denoiser's FeatureCache: answers with the predictor in cached cells, feeds it in the others.

    One object serves one batch from step 0 to the last; call `begin_step` before each forward pass.
    """

    def __init__(self, mask: Tensor, predictor: Predictor) -> None:
        self.cached: list[list[list[bool]]] = mask.tolist()
        self.predictor = predictor
        self.step = 0
        self.peak_cache_tensors = 0
        self.peak_cache_bytes = 0

    def begin_step(self, step: int) -> None:
        """Announce sampling step `step`, 0 = the noisiest."""
        self.step = step
        held = self.predictor.held()
        self.peak_cache_tensors = max(self.peak_cache_tensors, len(held))
        self.peak_cache_bytes = max(self.peak_cache_bytes, sum(tensor.nbytes for tensor in held))

    def lookup(self, block: int, branch: int) -> Tensor | None:
        if self.cached[self.step][block][branch]:
            return self.predictor.predict(self.step, (block, branch))
        return None

    def store(self, block: int, branch: int, feature: Tensor) -> None:
        self.predictor.store(self.step, (block, branch), feature)
