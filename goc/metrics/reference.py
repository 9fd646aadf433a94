"""Statistics of real images, to compare generated ones with: from a saved file, ADM's .npz, or a folder of images."""

import logging
import textwrap
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from goc.metrics.archive import IMAGES, archived_images, listed, open_archive, read_statistic
from goc.metrics.extraction import sums_of
from goc.metrics.features import Extractor
from goc.metrics.pickled import UNREADABLE, read_arrays
from goc.metrics.real_images import PIXEL_RULE, RealImages, folder_images
from goc.metrics.registry import DINOV2
from goc.metrics.statistics import Moments
from goc.system.errors import GocError
from goc.system.files import content_key, file_sha256, require_regular_file, room_for, write_atomically
from goc.system.locks import Lock
from goc.system.sealed import in_one_order, json_sha256, tensors_sha256

EDM2 = {"inception": "fid", DINOV2: "fd_dinov2"}  # what its files of statistics call an extractor's

log = logging.getLogger(__name__)

FORMAT = "goc reference 1"
STATISTICS = ("mu", "sigma", "mu_s", "sigma_s")
SHA256, PIXELS = "sha256", "pixels"  # in a header: the checksum of all else, and by which rule files became pixels
SHOWN_HASH = 12
STATISTICS_TYPES, FEATURES_TYPES = ("F32", "F64"), ("F16", "BF16", "F32", "F64")  # by the names of safetensors
ROUNDING = 1e-4  # of a covariance, relative to its largest variance: what float32 and its sums may leave


@dataclass(frozen=True)
class Reference:
    """Statistics of real images on an extractor's features.

    mu [D] and sigma [D, D] are float64, mu_s [S] and sigma_s [S, S] the same of its spatial features (None: not
    known); features [M, D] are float32 of M single images (None: not there, or not asked for). path and sha256 say
    where all this came from: a file, or a folder, of which the hash covers sorted names and contents.
    extractor_sha256 (its weights) and image_size are None where the source does not say. pixels: how files became
    pixels.
    """

    path: Path
    sha256: str
    extractor: str
    extractor_sha256: str | None
    image_size: int | None
    mu: np.ndarray
    sigma: np.ndarray
    mu_s: np.ndarray | None = None
    sigma_s: np.ndarray | None = None
    features: Tensor | None = None
    pixels: str = PIXEL_RULE


def load_reference(
    path: Path, extractor: Extractor, image_size: int | None, need_features: bool, cache_dir: Path | None
) -> Reference:
    """The reference in a file saved by `save_reference`, an ADM .npz, a .pkl of EDM2, or a folder of images.

    image_size: of the generated images (None: any). need_features: whether features of single images are wanted
    (`goc.metrics.evaluate.needs_images`); for an .npz they are extracted from arr_0. What is extracted is kept in
    cache_dir by content. How many images it is of, and what of a folder is not used, is logged, under the setting of
    the extractor's reference. Raises GocError, of one line, if the reference is missing, damaged, or of another
    extractor or image size; nothing in a file is ever run.
    """
    what, suffix = extractor.reference_setting, path.suffix.lower()
    if not path.exists():
        raise GocError(
            f"{what}={path}: no such file or folder (looked for {path.absolute()}); get ADM's with `goc fetch`"
        )
    if path.is_dir():
        reference = extracted(folder_images(path, extractor.kind.channels, image_size, what), extractor, cache_dir)
    elif suffix == ".npz":
        reference = _load_npz(path, extractor, image_size, need_features, cache_dir)
    elif suffix == ".safetensors":
        reference = _load_saved(path, extractor, need_features)
        _warn_of_pixels(path, what)
    elif suffix == ".pkl":
        reference = _load_edm2(path, extractor)
    else:
        raise GocError(f"{what}={path}: must be a .safetensors, .npz or .pkl file, or a folder of images")
    _check(reference, extractor, image_size)
    return reference if need_features else replace(reference, features=None)


def save_reference(path: Path, reference: Reference) -> None:
    """Write a reference as .safetensors, with what it was made with and from in the header, and a checksum."""
    arrays = {name: getattr(reference, name) for name in STATISTICS}
    tensors = {name: torch.from_numpy(array).contiguous() for name, array in arrays.items() if array is not None}
    if reference.features is not None:
        tensors["features"] = reference.features.contiguous()
    header = {
        "format": FORMAT,
        "extractor": reference.extractor,
        "extractor_sha256": reference.extractor_sha256,
        "image_size": reference.image_size,
        "source": reference.path.name,
        "source_sha256": reference.sha256,
        PIXELS: reference.pixels,
    }
    metadata = {key: str(value) for key, value in header.items() if value is not None}
    content = save(tensors, metadata=metadata | {SHA256: _checksum(metadata, tensors)})
    write_atomically(path, in_one_order(content))


def _checksum(header: dict[str, str], tensors: dict[str, Tensor]) -> str:
    """Of all that a saved reference says and holds."""
    return json_sha256([{key: value for key, value in header.items() if key != SHA256}, tensors_sha256(tensors)])


def header_of(path: Path) -> dict[str, str]:
    """What the header of a saved reference says; raises SafetensorError or OSError."""
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def _load_saved(path: Path, extractor: Extractor, need_features: bool) -> Reference:
    """A .safetensors file: the full form, or `features` alone."""
    prefix, damaged = f"{extractor.reference_setting}={path}:", False
    require_regular_file(path, extractor.reference_setting)
    try:
        with safe_open(path, framework="pt") as file:
            header, names = file.metadata() or {}, set(file.offset_keys())
            for name in names & {*STATISTICS, "features"}:
                part, types = file.get_slice(name), FEATURES_TYPES if name == "features" else STATISTICS_TYPES
                if part.get_dtype() not in types:
                    raise GocError(f"{prefix} {name} is of the type {part.get_dtype()}, must be {' or '.join(types)}")
            statistics = {name: file.get_tensor(name).double().numpy() for name in STATISTICS if name in names}
            wanted = "features" in names and (need_features or "mu" not in names)
            features = file.get_tensor("features").float() if wanted else None
            if SHA256 in header:  # not in files of an older version
                damaged = header[SHA256] != _checksum(header, {name: file.get_tensor(name) for name in names})
        image_size = int(header["image_size"]) if "image_size" in header else None
    except (SafetensorError, OSError, ValueError) as error:
        raise GocError(f"{prefix} damaged, or not a reference ({error})") from error
    if damaged:
        raise GocError(f"{prefix} damaged (its checksum does not match)")
    if (form := header.get("format", FORMAT)) != FORMAT:
        raise GocError(f"{prefix} is of the format {form!a}, must be {FORMAT!a}")
    if features is not None and not features.isfinite().all():
        raise GocError(f"{prefix} features hold values that are no finite numbers")
    if features is not None and "mu" not in names:
        if features.ndim != 2 or len(features) < 2:
            raise GocError(f"{prefix} its features must be [images, D], not {list(features.shape)}")
        _check_features(prefix, features, extractor)  # before what is computed of them, D x D numbers
        moments = Moments(features.shape[1])
        moments.add(features)
        statistics = moments.statistics()
    if not {"mu", "sigma"} <= set(statistics):
        raise GocError(f"{prefix} holds neither statistics (mu, sigma) nor features of real images")
    return Reference(
        path, file_sha256(path), header.get("extractor", extractor.name), header.get("extractor_sha256"), image_size,
        features=features, pixels=header.get(PIXELS, PIXEL_RULE), **statistics,
    )  # fmt: skip


def _warn_of_pixels(path: Path, what: str) -> None:
    """Say so if a saved reference is of files whose pixels an older version may have read otherwise."""
    header = header_of(path)
    if "source_sha256" in header and PIXELS not in header and not header.get("source", "").lower().endswith(".npz"):
        log.warning("%s=%s: was made by an older version, which read 16-bit, transparent and turned images otherwise; "
                    "if there were any in %s, make it again with `goc reference`",
                    what, path, ascii(header.get("source", "its folder")))  # fmt: skip


def _load_npz(
    path: Path, extractor: Extractor, image_size: int | None, need_features: bool, cache_dir: Path | None
) -> Reference:
    """ADM's form: mu, sigma, mu_s, sigma_s, and images arr_0, uint8 [M, H, W, C]; either without the other will do."""
    what, images = extractor.reference_setting, None
    prefix = f"{what}={path}:"
    require_regular_file(path, what)
    sha256 = file_sha256(path)
    statistics: dict[str, np.ndarray] = {}
    with open_archive(path, what) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
        if IMAGES in names:
            images = archived_images(path, sha256, archive, what)
        for name in names & set(STATISTICS) if extractor.kind.archived else ():
            check = partial(_check_shape, prefix, name, extractor=extractor)
            statistics[name] = read_statistic(archive, name, f"{prefix} {name}", check)
        held = listed(archive)
    if images is not None:
        _check_size(prefix, images.size, image_size)
    if not {"mu", "sigma"} <= set(statistics):
        if images is None:
            wanted = "neither statistics (mu, sigma) nor" if extractor.kind.archived else f"for {extractor.name} no"
            raise GocError(f"{prefix} holds {wanted} images ({IMAGES}), but {held}")
        return extracted(images, extractor, cache_dir)
    size = None if images is None else images.size
    reference = Reference(path, sha256, extractor.name, None, size, features=None, pixels=PIXEL_RULE, **statistics)
    _check(reference, extractor, image_size)  # before the images, which take long
    if images is None or not need_features:
        return reference
    return replace(reference, features=extracted(images, extractor, cache_dir).features)


def _load_edm2(path: Path, extractor: Extractor) -> Reference:
    """EDM2's form, a pickle of {"fid" or "fd_dinov2": {"mu", "sigma"}}: statistics without images."""
    prefix = f"{extractor.reference_setting}={path}:"
    require_regular_file(path, extractor.reference_setting)
    name = EDM2.get(extractor.name)
    try:
        content = read_arrays(path)
        held = ", ".join(key for key, value in content.items() if isinstance(value, dict))
        statistics = None if name is None else content.get(name)
        if statistics is not None:
            statistics = {key: np.asarray(statistics[key], dtype=np.float64) for key in ("mu", "sigma")}
    except UNREADABLE as error:
        reason = textwrap.shorten(str(error) or type(error).__name__, 200)
        raise GocError(f"{prefix} damaged, or no pickle of EDM2's statistics ({reason})") from error
    if statistics is None:
        raise GocError(f"{prefix} holds no statistics of {extractor.name}, but {held or 'nothing'}")
    return Reference(path, file_sha256(path), extractor.name, None, None, **statistics)


def _check_size(prefix: str, size: int | None, wanted: int | None) -> None:
    if None not in (size, wanted) and size != wanted:
        raise GocError(f"{prefix} of images of {size}x{size} pixels, not {wanted}x{wanted}")


def _check(reference: Reference, extractor: Extractor, image_size: int | None) -> None:
    """Raise GocError if a reference is not one for this extractor and image size."""
    prefix = f"{extractor.reference_setting}={reference.path}:"
    if reference.extractor != extractor.name:
        raise GocError(f"{prefix} made with the extractor {reference.extractor}, not with {extractor.name}")
    if reference.extractor_sha256 not in (None, extractor.weights_sha256):
        raise GocError(
            f"{prefix} made with other weights of {extractor.name} (SHA-256 "
            f"{reference.extractor_sha256[:SHOWN_HASH]}..., here {extractor.weights_sha256[:SHOWN_HASH]}...)"
        )
    _check_size(prefix, reference.image_size, image_size)
    for name in STATISTICS:
        array = getattr(reference, name)
        if array is not None:
            _check_shape(prefix, name, array.shape, extractor)
            if not np.isfinite(array).all():
                raise GocError(f"{prefix} {name} holds values that are no finite numbers")
            if array.ndim == 2:
                _check_covariance(prefix, name, array)
    if reference.features is not None:
        _check_features(prefix, reference.features, extractor)


def _check_shape(prefix: str, name: str, shape: tuple[int, ...], extractor: Extractor) -> None:
    """Raise GocError if a statistic is not of the extractor's size; one that is never used may have any."""
    kind = extractor.kind
    sizes = {"mu": (kind.size,), "sigma": (kind.size,) * 2}
    if kind.spatial_size:
        sizes |= {"mu_s": (kind.spatial_size,), "sigma_s": (kind.spatial_size,) * 2}
    wanted = sizes.get(name, shape)
    if shape != wanted:
        raise GocError(f"{prefix} {name} is {list(shape)}, {list(wanted)} on the features of {extractor.name}")


def _check_features(prefix: str, features: Tensor, extractor: Extractor) -> None:
    if features.shape[1:] != (extractor.kind.size,):
        raise GocError(
            f"{prefix} features are {list(features.shape)}, [images, {extractor.kind.size}] for {extractor.name}"
        )


def _check_covariance(prefix: str, name: str, sigma: np.ndarray) -> None:
    """Raise GocError if a finite matrix [D, D] is no covariance: not symmetric, or with a negative eigenvalue."""
    room = ROUNDING * max(np.abs(sigma).max(), np.finfo(np.float32).tiny)
    if np.abs(sigma - sigma.T).max() > room:
        raise GocError(f"{prefix} {name} is not symmetric, so it is no covariance")
    try:
        np.linalg.cholesky(sigma + room * np.eye(len(sigma)))
    except np.linalg.LinAlgError as error:
        raise GocError(f"{prefix} {name} has negative eigenvalues, so it is no covariance") from error


def make_reference(images: RealImages, extractor: Extractor, out: Path, most: int | None = None) -> Reference:
    """Save the reference of images, with features of at most so many of them (None: all); killed, it goes on later."""
    _say(images, extractor.reference_setting)
    return _made(images, extractor, out, most)


def _made(images: RealImages, extractor: Extractor, out: Path, most: int | None) -> Reference:
    sums = out.with_name(f".{out.name}.partial")
    reference = _of(images, extractor, most, sums)
    with room_for(out, "what was finished before it is kept"):
        save_reference(out, reference)
    sums.unlink(missing_ok=True)
    return reference


def _say(images: RealImages, setting: str) -> None:
    report = log.warning if images.notes else log.info
    said = "; ".join((f"{images.count} images of {images.size}x{images.size} pixels used", *images.notes))
    report("%s=%s: %s", setting, images.path, said)


def extracted(images: RealImages, extractor: Extractor, cache_dir: Path | None) -> Reference:
    """The reference of images, with their features; kept in cache_dir (if not None) by content, and made only once."""
    _say(images, extractor.reference_setting)
    if cache_dir is None:
        return _of(images, extractor, None, None)
    parts = {"images": images.sha256, **extractor.identity}
    key = content_key(parts if images.rule is None else parts | {"pixels": images.rule})
    kept = cache_dir / f"reference-{key}.safetensors"
    cache_dir.mkdir(parents=True, exist_ok=True)
    with Lock(kept.with_suffix(".lock")):
        if kept.exists():
            try:
                reference = _load_saved(kept, extractor, need_features=True)
                _check(reference, extractor, images.size)
                if _is_of(kept, images, extractor):
                    return replace(reference, path=images.path, sha256=images.sha256)
                log.warning("%s is of other images or another extractor: it is made again", kept)
            except GocError as error:
                log.warning("%s: it is made again", error)
        return _made(images, extractor, kept, None)


def _is_of(kept: Path, images: RealImages, extractor: Extractor) -> bool:
    """Whether a kept reference is of these images by this extractor, whatever its name."""
    expected = {"source_sha256": images.sha256, "extractor": extractor.name,
                "extractor_sha256": extractor.weights_sha256, "image_size": str(images.size)}  # fmt: skip
    return expected.items() <= header_of(kept).items()


def _of(images: RealImages, extractor: Extractor, most: int | None, saved: Path | None) -> Reference:
    sums = sums_of(images, extractor, most, saved)
    mu_s, sigma_s = (sums.spatial.mu, sums.spatial.sigma) if sums.spatial.count else (None, None)
    return Reference(
        images.path, images.sha256, extractor.name, extractor.weights_sha256, images.size, sums.plain.mu,
        sums.plain.sigma, mu_s, sigma_s, sums.features, images.rule or PIXEL_RULE,
    )  # fmt: skip
