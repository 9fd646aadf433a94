"""What the shards of a measured run keep of its samples."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from goc.metrics.features import Extractor
from goc.sampling.frames import FRAMES, count_of, scored
from goc.sampling.images import GRID_SAMPLES
from goc.sampling.shards import Keep

Score = Callable[[range, Tensor], Tensor]  # indices and uint8 images [n, C, H, W] of samples -> [n]


@dataclass(frozen=True)
class KeepFeatures(Keep):
    """Keeps labels, features and scores of all samples; latents and images of those that are compared, shown or saved.

    extractor: None: there are no features. compared: the first samples whose latents and images are kept. images:
    whether all images are. videos: whether samples have frames. scores: of each sample, by name. second: another
    extractor, whose features are kept as well.
    """

    extractor: Extractor | None
    compared: int
    images: bool
    videos: bool = False
    scores: Mapping[str, Score] = field(default_factory=dict)
    second: Extractor | None = None

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the first extractor's features."""
        return () if self.extractor is None else self.extractor.fields

    @property
    def second_field(self) -> str | None:
        """Name of the second one's."""
        return None if self.second is None else self.second.second_field

    def names(self, indices: range) -> frozenset[str]:
        names = {"labels", *self.fields, *self.scores, *([FRAMES] if self.videos else [])}
        if self.second is not None:
            names.add(self.second.second_field)
        if indices.start < self.compared:
            names |= {"latents", "images"}
        if self.images or indices.start < GRID_SAMPLES:
            names.add("images")
        return frozenset(names)

    def __call__(self, indices: range, made: dict[str, Tensor]) -> dict[str, Tensor]:
        pictures, count = made["images"], count_of(made)
        everything = made | {name: scored(score, indices, pictures, count) for name, score in self.scores.items()}
        if self.extractor is not None:
            everything |= zip(self.fields, self.extractor.outputs(pictures), strict=True)
        if self.second is not None:
            everything[self.second.second_field], *_ = self.second.outputs(pictures)
        return {name: everything[name] for name in self.names(indices)}

    def check(self, kept: dict[str, Tensor]) -> None:
        for extractor, names in ((self.extractor, self.fields), (self.second, (self.second_field,))):
            if extractor is not None:
                extractor.require_finite(kept[name] for name in names if name is not None)
