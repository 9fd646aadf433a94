"""Statistics of real images, to compare generated ones with: from a saved file, ADM's .npz, or a folder of images."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from goc.metrics.features import Extractor
from goc.metrics.real_images import RealImages, archived_images, folder_images, open_archive
from goc.metrics.statistics import Moments
from goc.system.errors import GocError
from goc.system.files import content_key, file_sha256, room_for, write_atomically
from goc.system.locks import Lock

log = logging.getLogger(__name__)

FORMAT = "goc reference 1"
STATISTICS = ("mu", "sigma", "mu_s", "sigma_s")
SHOWN_HASH = 12


@dataclass(frozen=True)
class Reference:
    """Statistics of real images on an extractor's features.

    mu [D] and sigma [D, D] are float64, mu_s [S] and sigma_s [S, S] the same of its spatial features (None: not
    known); features [M, D] are float32 of M single images (None: not there, or not asked for). path and sha256 say
    where all this came from: a file, or a folder, of which the hash covers sorted names and contents.
    extractor_sha256 (its weights) and image_size are None where the source does not say.
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


def load_reference(
    path: Path, extractor: Extractor, image_size: int | None, need_features: bool, cache_dir: Path | None
) -> Reference:
    """The reference in a file saved by `save_reference`, an ADM .npz, or a folder of images (png, jpg; subfolders too).

    image_size: of the generated images (None: any). need_features: whether features of single images are wanted
    (`goc.metrics.evaluate.needs_images`); for an .npz they are extracted from arr_0. What is extracted is kept in
    cache_dir by content. Raises GocError, of one line, if the reference is missing, damaged, or of another extractor or
    image size; nothing in a file is ever run.
    """
    if not path.exists():
        raise GocError(
            f"model.reference={path}: no such file or folder (looked for {path.absolute()}); "
            "get ADM's with `python scripts/fetch_weights.py`"
        )
    if path.is_dir():
        reference = extracted(folder_images(path, extractor.kind.channels, image_size), extractor, cache_dir)
    elif path.suffix == ".npz":
        reference = _load_npz(path, extractor, image_size, need_features, cache_dir)
    elif path.suffix == ".safetensors":
        reference = _load_saved(path, extractor.name, need_features)
    else:
        raise GocError(f"model.reference={path}: must be a .safetensors or .npz file, or a folder of images")
    _check(reference, extractor, image_size)
    return reference if need_features else replace(reference, features=None)


def save_reference(path: Path, reference: Reference) -> None:
    """Write a reference as .safetensors, with what it was made with and from in the header."""
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
    }
    metadata = {key: str(value) for key, value in header.items() if value is not None}
    write_atomically(path, save(tensors, metadata=metadata))


def _load_saved(path: Path, extractor: str, need_features: bool) -> Reference:
    """A .safetensors file: the full form, or `features` alone."""
    try:
        with safe_open(path, framework="pt") as file:
            header, names = file.metadata() or {}, set(file.offset_keys())
            statistics = {name: file.get_tensor(name).double().numpy() for name in STATISTICS if name in names}
            wanted = "features" in names and (need_features or "mu" not in names)
            features = file.get_tensor("features").float() if wanted else None
        image_size = int(header["image_size"]) if "image_size" in header else None
    except (SafetensorError, OSError, ValueError) as error:
        raise GocError(f"model.reference={path}: damaged, or not a reference ({error})") from error
    if features is not None and "mu" not in names:
        if features.ndim != 2 or len(features) < 2:
            raise GocError(f"model.reference={path}: its features must be [images, D], not {list(features.shape)}")
        own = Moments(features.shape[1])
        own.add(features)
        statistics = own.statistics()
    if not {"mu", "sigma"} <= set(statistics):
        raise GocError(f"model.reference={path}: holds neither statistics (mu, sigma) nor features of real images")
    return Reference(
        path=path,
        sha256=file_sha256(path),
        extractor=header.get("extractor", extractor),
        extractor_sha256=header.get("extractor_sha256"),
        image_size=image_size,
        features=features,
        **statistics,
    )


def _load_npz(
    path: Path, extractor: Extractor, image_size: int | None, need_features: bool, cache_dir: Path | None
) -> Reference:
    """ADM's form: mu, sigma, mu_s, sigma_s, and images arr_0, uint8 [M, H, W, C]; either without the other will do."""
    sha256, images = file_sha256(path), None
    statistics: dict[str, np.ndarray] = {}
    with open_archive(path) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
        for name in names & set(STATISTICS):
            with archive.open(f"{name}.npy") as member:
                statistics[name] = np.lib.format.read_array(member, allow_pickle=False).astype(np.float64)
        if "arr_0" in names:
            images = archived_images(path, sha256, archive)
    if images is not None:
        _check_size(path, images.size, image_size)
    if not {"mu", "sigma"} <= set(statistics):
        if images is None:
            raise GocError(f"model.reference={path}: holds neither statistics (mu, sigma) nor images (arr_0)")
        return extracted(images, extractor, cache_dir)
    reference = Reference(
        path=path,
        sha256=sha256,
        extractor=extractor.name,
        extractor_sha256=None,
        image_size=None if images is None else images.size,
        mu=statistics["mu"],
        sigma=statistics["sigma"],
        mu_s=statistics.get("mu_s"),
        sigma_s=statistics.get("sigma_s"),
    )
    _check(reference, extractor, image_size)  # before the images, which take long
    if images is None or not need_features:
        return reference
    return replace(reference, features=extracted(images, extractor, cache_dir).features)


def _check_size(path: Path, found: int | None, wanted: int | None) -> None:
    if None not in (found, wanted) and found != wanted:
        raise GocError(f"model.reference={path}: of images of {found}x{found} pixels, not {wanted}x{wanted}")


def _check(reference: Reference, extractor: Extractor, image_size: int | None) -> None:
    """Raise GocError if a reference is not one for this extractor and image size."""
    prefix = f"model.reference={reference.path}:"
    if reference.extractor != extractor.name:
        raise GocError(f"{prefix} made with the extractor {reference.extractor}, not with {extractor.name}")
    if reference.extractor_sha256 not in (None, extractor.weights_sha256):
        raise GocError(
            f"{prefix} made with other weights of {extractor.name} (SHA-256 "
            f"{reference.extractor_sha256[:SHOWN_HASH]}..., here {extractor.weights_sha256[:SHOWN_HASH]}...)"
        )
    _check_size(reference.path, reference.image_size, image_size)
    kind = extractor.kind
    sizes = {"mu": (kind.size,), "sigma": (kind.size,) * 2}
    if kind.spatial_size:
        sizes |= {"mu_s": (kind.spatial_size,), "sigma_s": (kind.spatial_size,) * 2}
    for name, shape in sizes.items():
        array = getattr(reference, name)
        if array is not None and array.shape != shape:
            raise GocError(f"{prefix} {name} is {list(array.shape)}, {list(shape)} on the features of {extractor.name}")
        if array is not None and not np.isfinite(array).all():
            raise GocError(f"{prefix} {name} holds values that are no finite numbers")
    if reference.features is not None and reference.features.shape[1:] != (kind.size,):
        found = list(reference.features.shape)
        raise GocError(f"{prefix} features are {found}, [images, {kind.size}] for {extractor.name}")


def extracted(images: RealImages, extractor: Extractor, cache_dir: Path | None) -> Reference:
    """The reference of images, with their features; kept in cache_dir (if not None) by content, and made only once."""
    if cache_dir is None:
        return _extract_all(images, extractor)
    key = content_key({"images": images.sha256, "extractor": extractor.name, "weights": extractor.weights_sha256})
    kept = cache_dir / f"reference-{key}.safetensors"
    cache_dir.mkdir(parents=True, exist_ok=True)
    with Lock(kept.with_suffix(".lock")):
        if kept.exists():
            try:
                reference = _load_saved(kept, extractor.name, need_features=True)
                _check(reference, extractor, images.size)
                return replace(reference, path=images.path, sha256=images.sha256)
            except GocError as error:
                log.warning("%s: it is made again", error)
        reference = _extract_all(images, extractor)
        with room_for(kept, "what was finished before it is kept"):
            save_reference(kept, reference)
    return reference


def _extract_all(images: RealImages, extractor: Extractor) -> Reference:
    kind = extractor.kind
    plain, spatial = Moments(kind.size), Moments(kind.spatial_size)
    features = torch.empty(images.count, kind.size)
    with tqdm(total=images.count, desc=f"features of {images.path.name}", unit="img") as progress:
        for batch in images.batches():
            own = extractor.extract(batch)
            features[plain.count : plain.count + len(own)] = own.features
            plain.add(own.features)
            if own.spatial is not None:
                spatial.add(own.spatial)
            progress.update(len(own))
    return Reference(
        path=images.path,
        sha256=images.sha256,
        extractor=extractor.name,
        extractor_sha256=extractor.weights_sha256,
        image_size=images.size,
        **plain.statistics(),
        mu_s=spatial.mu if spatial.count else None,
        sigma_s=spatial.sigma if spatial.count else None,
        features=features,
    )
