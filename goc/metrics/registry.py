"""The metrics and the feature extractors that there are, each one entry, known without loading what computes them."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from goc.metrics.columns import Column
from goc.system.errors import ConfigError
from goc.system.plugins import source_of
from goc.system.registry import Registry

PLUGINS = "plugins"  # entry of a result: the packages that its metrics come from, and what they are known by
PRC_NEIGHBORHOOD = 3
DINOV2 = "dinov2"  # the extractor of FD-DINOv2
SPATIAL_CHANNELS = 7
SPATIAL_FEATURES = 17 * 17 * SPATIAL_CHANNELS


@dataclass(frozen=True)
class Metric:
    """What metrics=[NAME] asks for.

    columns: its numbers in the table. about: one line of help. minimum_samples: the fewest it is defined for.

    It is computed by one of two functions, named as `module:object`. features: of all samples' features,
    `(batches, count, reference) -> goc.metrics.scores.Scores`; compares: whether it looks at real images; needs: what
    not every extractor and reference has: logits, spatial features, or the features of the reference's single images.
    second: of the features of the second extractor, and by its reference; extractor: the only one that it is defined
    for (None: any).
    score: of single images, uint8 [n, C, H, W] -> [n], of which the mean is the metric. With needs="prompts", which
    only pipelines have, it loads such a function of images and prompts, `(folder, device) -> function`; scorer is the
    model's setting that names the folder.
    """

    columns: tuple[Column, ...]
    about: str
    features: str | None = None
    score: str | None = None
    minimum_samples: int = 1
    needs: Literal["logits", "spatial", "images", "prompts"] | None = None
    scorer: str = "clip"
    compares: bool = True
    second: bool = False
    extractor: str | None = None


METRICS: Registry[Metric] = Registry("metrics")


def add_metric(name: str, metric: Metric, module: str) -> Metric:
    """Enter a metric under a name; `module` gives it."""
    return METRICS.add(name, metric, module)


def plugins_of(metrics: list[str]) -> dict[str, str]:
    """The packages that metrics come from beside this one, and what they are known by: version and sources."""
    packages = (METRICS.plugin_of(name) for name in metrics if name in METRICS)
    return {package: source_of(package) for package in packages if package is not None}


def of_second(metrics: Iterable[str], second: bool = True) -> list[str]:
    """Those of the named metrics that are of the second extractor's features; second=False: those that are not."""
    return [name for name in metrics if METRICS[name].second == second]


def field_of(metric: str) -> str:
    """The name under which shards keep a metric's score of each sample: another one when its plugin changes."""
    package = METRICS.plugin_of(metric)
    return metric if package is None else f"{metric}@{source_of(package)}"


def number(name: str, title: str, meaning: str, better: Literal["lower", "higher"], influences: bool = True) -> Column:
    """The column of a metric's number, with an error, and with what each sample contributes if `influences`."""
    path, contribution = ("metrics", name), name if influences else None
    return Column(name, path, title, meaning, better, error=True, contribution=contribution)


lower, higher = partial(number, better="lower"), partial(number, better="higher")
EVALUATE = "goc.metrics.evaluate"
for _name, _metric in {
    "isc": Metric((higher("is", "IS", "Inception score"),), "Inception score", features=f"{EVALUATE}:inception_score",
                  needs="logits", compares=False),
    "fid": Metric((lower("fid", "FID", "FID to the real images"),), "Frechet distance of features to real images",
                  features=f"{EVALUATE}:fid", minimum_samples=2),
    "sfid": Metric((lower("sfid", "sFID", "sFID to the real images"),), "the same of spatial features",
                   features=f"{EVALUATE}:sfid", minimum_samples=2, needs="spatial"),
    "kid": Metric((lower("kid", "KID", "KID to the real images", influences=False),), "kernel distance of features",
                  features=f"{EVALUATE}:kid", minimum_samples=2, needs="images"),
    "prc": Metric((higher("precision", "precision", "precision", influences=False),
                   higher("recall", "recall", "recall", influences=False)), "improved precision and recall",
                  features=f"{EVALUATE}:precision_recall", minimum_samples=PRC_NEIGHBORHOOD + 1, needs="images"),
    "clip": Metric((higher("clip", "CLIP score", "CLIP score of images and their prompts"),),
                   "CLIP score of images and their prompts", score="goc.metrics.clip:ClipScore.load", needs="prompts",
                   compares=False),
    "clip_iqa": Metric((higher("clip_iqa", "CLIP-IQA", "CLIP-IQA: a good photo, not a bad one"),),
                       "image quality by CLIP", score="goc.metrics.clip:ClipIqa.load", needs="prompts", compares=False),
    "blip_itm": Metric((higher("blip_itm", "BLIP match", "probability that image and prompt match, by BLIP"),),
                       "probability that an image and its prompt match", score="goc.metrics.blip:BlipMatching.load",
                       needs="prompts", scorer="blip", compares=False),
}.items():  # fmt: skip
    add_metric(_name, _metric, __name__)


# the same distances by the second extractor: any one, or DINOv2, whose numbers are published by this name
for _of, _title, _extractor in (("dinov2", "DINOv2", DINOV2), ("second", "second", None)):
    _second = partial(Metric, second=True, extractor=_extractor)
    _near, _far = partial(lower, influences=False), partial(higher, influences=False)
    _by = f"by the features of {_title if _extractor else 'the second extractor'}"
    for _name, _metric in {
        f"fd_{_of}": _second((lower(f"fd_{_of}", f"FD-{_title}", f"Frechet distance to the real images {_by}"),),
                             f"Frechet distance {_by}", features=f"{EVALUATE}:fd_{_of}", minimum_samples=2),
        f"kd_{_of}": _second((_near(f"kd_{_of}", f"KD-{_title}", f"kernel distance to the real images {_by}"),),
                             f"kernel distance {_by}", features=f"{EVALUATE}:kd_{_of}", minimum_samples=2,
                             needs="images"),
        f"prc_{_of}": _second((_far(f"precision_{_of}", f"precision-{_title}", f"precision {_by}"),
                               _far(f"recall_{_of}", f"recall-{_title}", f"recall {_by}")),
                              f"precision and recall {_by}", features=f"{EVALUATE}:prc_{_of}",
                              minimum_samples=PRC_NEIGHBORHOOD + 1, needs="images"),
    }.items():  # fmt: skip
        add_metric(_name, _metric, __name__)


@dataclass(frozen=True)
class ExtractorKind:
    """An extractor's outputs, and the images it takes.

    layers are its outputs in the order of Features; size and spatial_size their D and S (0: it has no spatial
    features); image_size the only size of images it takes (None: any). grey: whether it takes images of one channel as
    well, as three equal ones. archived: whether the statistics in an .npz are of its features. reference: the shipped
    one. second: the extractor that gives the second opinion beside it, unless another is named.
    """

    layers: tuple[str, ...]
    size: int
    spatial_size: int
    channels: int
    image_size: int | None
    grey: bool = False
    archived: bool = True
    reference: str | None = None
    second: str | None = None


EXTRACTORS = {
    "digits": ExtractorKind(("64", "logits_unbiased"), 64, 0, 1, 8, reference="asset:digits/reference.safetensors",
                            second="digits_simclr"),
    "fashion": ExtractorKind(("64", "logits_unbiased"), 64, 0, 1, 32, reference="asset:fashion/reference.safetensors",
                             second="fashion_simclr"),
    "inception": ExtractorKind(("2048", "logits_unbiased", "sfid"), 2048, SPATIAL_FEATURES, 3, None, second=DINOV2),
    "digits_simclr": ExtractorKind(("32",), 32, 0, 1, 8, archived=False,
                                   reference="asset:digits/reference-simclr.safetensors"),
    "fashion_simclr": ExtractorKind(("32",), 32, 0, 1, 32, archived=False,
                                    reference="asset:fashion/reference-simclr.safetensors"),
    DINOV2: ExtractorKind(("features",), 1024, 0, 3, None, grey=True, archived=False),
}  # fmt: skip
SETTING = "model.extractor"  # the setting that names an extractor; with _weights, its file
TIMM = "timm:"  # how the name of an extractor begins that is a network of timm
NAMED = (*EXTRACTORS, f"{TIMM}NAME")  # what may be named


def extractor_kind(name: str, setting: str = SETTING) -> ExtractorKind:
    """What is known of an extractor before it is loaded: of a network of timm all but its size.

    setting: the one that names it, for messages. Raises ConfigError for a name that none has.
    """
    known = EXTRACTORS.get(DINOV2 if name.startswith(TIMM) else name)
    if known is None:
        raise ConfigError(f"{setting}={name}: must be one of {', '.join(NAMED)}")
    return known
