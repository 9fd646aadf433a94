"""What the shards of a measured run keep of its samples."""

from dataclasses import dataclass

from torch import Tensor

from goc.metrics.features import Extractor
from goc.sampling.images import GRID_SAMPLES
from goc.sampling.shards import Keep


@dataclass(frozen=True)
class KeepFeatures(Keep):
    """Keeps labels and features of all samples; latents and images of those that are compared, shown or saved.

    compared: the first samples whose latents and images are kept. images: whether all images are.
    """

    extractor: Extractor
    compared: int
    images: bool

    def names(self, indices: range) -> frozenset[str]:
        names = {"labels", *self.extractor.fields}
        if indices.start < self.compared:
            names |= {"latents", "images"}
        if self.images or indices.start < GRID_SAMPLES:
            names.add("images")
        return frozenset(names)

    def __call__(self, indices: range, made: dict[str, Tensor]) -> dict[str, Tensor]:
        features = self.extractor.extract(made["images"])
        everything = {**made, **{name: getattr(features, name) for name in self.extractor.fields}}
        return {name: everything[name] for name in self.names(indices)}
