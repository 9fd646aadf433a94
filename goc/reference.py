"""Statistics of real images, to compare generated ones with: from a saved file, ADM's .npz, or a folder of images.

    python -m goc.reference IMAGES_OR_NPZ --extractor inception [--weights FILE] --out stats.safetensors

makes a saved file, so that features are extracted only once: its path is then what model.reference names.
"""

import argparse
import hashlib
import logging
import sys
import textwrap
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
import torch
from filelock import FileLock
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch_fidelity import FeatureExtractorBase
from tqdm import tqdm

from goc.errors import GocError
from goc.features import EXTRACTORS, extract, extractor_sha256, load_extractor
from goc.files import content_key, file_sha256, write_atomically
from goc.statistics import Moments

log = logging.getLogger(__name__)

FORMAT = "goc reference 1"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
IMAGE_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
ARCHIVE_ERRORS = (
    OSError, EOFError, ValueError, LookupError, RuntimeError, MemoryError, SyntaxError, tokenize.TokenError,
    zlib.error, zipfile.BadZipFile,
)  # fmt: skip
EXTRACTION_BATCH = 64
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


@dataclass(frozen=True)
class RealImages:
    """Images to extract features from: `count` of `size` x `size` pixels, as uint8 batches [n, C, size, size]."""

    path: Path
    sha256: str
    count: int
    size: int
    batches: Callable[[], Iterator[Tensor]]


def load_reference(
    path: Path,
    extractor: FeatureExtractorBase,
    weights_sha256: str,
    image_size: int | None,
    device: torch.device,
    cache_dir: Path | None,
    need_features: bool,
) -> Reference:
    """The reference in a file saved by `save_reference`, an ADM .npz, or a folder of images (png, jpg; subfolders too).

    extractor: as loaded, with the SHA-256 of its weights. image_size: of the generated images (None: any).
    need_features: whether features of single images are wanted (`goc.evaluate.needs_images`); for an .npz they are
    extracted from arr_0. What is extracted is kept in cache_dir by content. Raises GocError, of one line, if the
    reference is missing, damaged, or of another extractor or image size; nothing in a file is ever run.
    """
    if not path.exists():
        raise GocError(
            f"model.reference={path}: no such file or folder (looked for {path.absolute()}); "
            "get ADM's with `python scripts/fetch_weights.py`"
        )
    if path.is_dir():
        images = folder_images(path, EXTRACTORS[extractor.get_name()].channels, image_size)
        reference = extracted(images, extractor, weights_sha256, device, cache_dir)
    elif path.suffix == ".npz":
        reference = _load_npz(path, extractor, weights_sha256, image_size, device, cache_dir, need_features)
    elif path.suffix == ".safetensors":
        reference = _load_saved(path, extractor.get_name(), need_features)
    else:
        raise GocError(f"model.reference={path}: must be a .safetensors or .npz file, or a folder of images")
    _check(reference, extractor.get_name(), weights_sha256, image_size)
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


def _check_size(path: Path, found: int | None, wanted: int | None) -> None:
    if None not in (found, wanted) and found != wanted:
        raise GocError(f"model.reference={path}: of images of {found}x{found} pixels, not {wanted}x{wanted}")


def _check(reference: Reference, extractor: str, weights_sha256: str, image_size: int | None) -> None:
    """Raise GocError if a reference is not one for this extractor and image size."""
    prefix = f"model.reference={reference.path}:"
    if reference.extractor != extractor:
        raise GocError(f"{prefix} made with the extractor {reference.extractor}, not with {extractor}")
    if reference.extractor_sha256 not in (None, weights_sha256):
        raise GocError(
            f"{prefix} made with other weights of {extractor} (SHA-256 {reference.extractor_sha256[:SHOWN_HASH]}..., "
            f"here {weights_sha256[:SHOWN_HASH]}...)"
        )
    _check_size(reference.path, reference.image_size, image_size)
    kind = EXTRACTORS[extractor]
    sizes = {"mu": (kind.size,), "sigma": (kind.size,) * 2}
    if kind.spatial_size:
        sizes |= {"mu_s": (kind.spatial_size,), "sigma_s": (kind.spatial_size,) * 2}
    for name, shape in sizes.items():
        array = getattr(reference, name)
        if array is not None and array.shape != shape:
            raise GocError(f"{prefix} {name} is {list(array.shape)}, {list(shape)} on the features of {extractor}")
        if array is not None and not np.isfinite(array).all():
            raise GocError(f"{prefix} {name} holds values that are no finite numbers")
    if reference.features is not None and reference.features.shape[1:] != (kind.size,):
        found = list(reference.features.shape)
        raise GocError(f"{prefix} features are {found}, [images, {kind.size}] for {extractor}")


def extracted(
    images: RealImages,
    extractor: FeatureExtractorBase,
    weights_sha256: str,
    device: torch.device,
    cache_dir: Path | None,
) -> Reference:
    """The reference of images, with their features; kept in cache_dir (if not None) by content, and made only once."""
    name = extractor.get_name()
    if cache_dir is None:
        return _extract_all(images, extractor, weights_sha256, device)
    key = content_key({"images": images.sha256, "extractor": name, "weights": weights_sha256})
    kept = cache_dir / f"reference-{key}.safetensors"
    cache_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(kept.with_suffix(".lock")):
        if kept.exists():
            try:
                reference = _load_saved(kept, name, need_features=True)
                _check(reference, name, weights_sha256, images.size)
                return replace(reference, path=images.path, sha256=images.sha256)
            except GocError as error:
                log.warning("%s: it is made again", error)
        reference = _extract_all(images, extractor, weights_sha256, device)
        save_reference(kept, reference)
    return reference


def _extract_all(
    images: RealImages, extractor: FeatureExtractorBase, weights_sha256: str, device: torch.device
) -> Reference:
    kind = EXTRACTORS[extractor.get_name()]
    plain, spatial = Moments(kind.size), Moments(kind.spatial_size)
    features = torch.empty(images.count, kind.size)
    with tqdm(total=images.count, desc=f"features of {images.path.name}", unit="img") as progress:
        for batch in images.batches():
            own = extract(batch, extractor, device)
            features[plain.count : plain.count + len(own)] = own.features
            plain.add(own.features)
            if own.spatial is not None:
                spatial.add(own.spatial)
            progress.update(len(own))
    return Reference(
        path=images.path,
        sha256=images.sha256,
        extractor=extractor.get_name(),
        extractor_sha256=weights_sha256,
        image_size=images.size,
        **plain.statistics(),
        mu_s=spatial.mu if spatial.count else None,
        sigma_s=spatial.sigma if spatial.count else None,
        features=features,
    )


def folder_images(folder: Path, channels: int, size: int | None) -> RealImages:
    """The .png and .jpg images in a folder and its subfolders, sorted by name; all size x size (None: the first's).

    Raises GocError naming the first file that is of another size or cannot be read.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if len(files) < 2:
        raise GocError(f"model.reference={folder}: {len(files)} .png or .jpg images there, at least 2 are needed")
    names = hashlib.sha256()
    for path in files:
        try:
            names.update(f"{path.relative_to(folder).as_posix()}\0{file_sha256(path)}\n".encode())
            with Image.open(path) as image:
                width, height = image.size
        except IMAGE_ERRORS as error:
            raise GocError(f"model.reference={folder}: {path.name} is damaged or no image ({error})") from error
        size = size or width
        if (width, height) != (size, size):
            raise GocError(f"model.reference={folder}: {path.name} is {width}x{height} pixels, not {size}x{size}")

    def read(path: Path) -> Tensor:
        try:
            with Image.open(path) as image:
                pixels = np.array(image.convert("L" if channels == 1 else "RGB"))
        except IMAGE_ERRORS as error:
            raise GocError(f"model.reference={folder}: {path.name} is damaged or no image ({error})") from error
        return torch.from_numpy(pixels).view(*pixels.shape[:2], channels).permute(2, 0, 1)

    def batches() -> Iterator[Tensor]:
        for start in range(0, len(files), EXTRACTION_BATCH):
            yield torch.stack([read(path) for path in files[start : start + EXTRACTION_BATCH]])

    assert size is not None
    return RealImages(folder, names.hexdigest(), len(files), size, batches)


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """An .npz file, opened; whatever goes wrong while it is read is a GocError."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except ARCHIVE_ERRORS as error:
        reason = textwrap.shorten(str(error) or type(error).__name__, 200)
        raise GocError(f"model.reference={path}: damaged, or not an .npz file of plain numbers ({reason})") from error


def _load_npz(
    path: Path,
    extractor: FeatureExtractorBase,
    weights_sha256: str,
    image_size: int | None,
    device: torch.device,
    cache_dir: Path | None,
    need_features: bool,
) -> Reference:
    """ADM's form: mu, sigma, mu_s, sigma_s, and images arr_0, uint8 [M, H, W, C]; either without the other will do."""
    sha256, images = file_sha256(path), None
    statistics: dict[str, np.ndarray] = {}
    with _archive(path) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
        for name in names & set(STATISTICS):
            with archive.open(f"{name}.npy") as member:
                statistics[name] = np.lib.format.read_array(member, allow_pickle=False).astype(np.float64)
        if "arr_0" in names:
            with archive.open("arr_0.npy") as member:
                count, size, width, _ = _images_shape(member)
            if size != width:
                raise ValueError(f"its images arr_0 are not square: {width}x{size}")
            images = RealImages(path, sha256, count, size, lambda: _npz_batches(path))
    if images is not None:
        _check_size(path, images.size, image_size)
    if not {"mu", "sigma"} <= set(statistics):
        if images is None:
            raise GocError(f"model.reference={path}: holds neither statistics (mu, sigma) nor images (arr_0)")
        return extracted(images, extractor, weights_sha256, device, cache_dir)
    reference = Reference(
        path=path,
        sha256=sha256,
        extractor=extractor.get_name(),
        extractor_sha256=None,
        image_size=None if images is None else images.size,
        mu=statistics["mu"],
        sigma=statistics["sigma"],
        mu_s=statistics.get("mu_s"),
        sigma_s=statistics.get("sigma_s"),
    )
    _check(reference, extractor.get_name(), weights_sha256, image_size)  # before the images, which take long
    if images is None or not need_features:
        return reference
    return replace(reference, features=extracted(images, extractor, weights_sha256, device, cache_dir).features)


def _images_shape(member: IO[bytes]) -> tuple[int, int, int, int]:
    """Shape [M, H, W, C] of the images in an .npy stream, which is then at the first of them."""
    if np.lib.format.read_magic(member) != (1, 0):
        raise ValueError("its images arr_0 are of an unknown .npy version")
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(member)
    if dtype != np.uint8 or len(shape) != 4 or by_columns or shape[0] < 2:
        raise ValueError(f"its images arr_0 must be uint8 [M, H, W, C] with M > 1, not {dtype} {list(shape)}")
    return shape


def _npz_batches(path: Path) -> Iterator[Tensor]:
    """arr_0 in batches [n, C, H, W], read as a stream: ADM's is 2 GB."""
    with _archive(path) as archive, archive.open("arr_0.npy") as member:
        count, height, width, channels = _images_shape(member)
        for start in range(0, count, EXTRACTION_BATCH):
            n = min(EXTRACTION_BATCH, count - start)
            content = member.read(n * height * width * channels)
            pixels = np.frombuffer(bytearray(content), np.uint8).reshape(n, height, width, channels)
            yield torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def main(arguments: list[str] | None = None) -> int:
    """Command line: make a saved statistics file."""
    parser = argparse.ArgumentParser(
        prog="python -m goc.reference", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path, metavar="IMAGES_OR_NPZ", help="folder of .png or .jpg, or ADM's .npz")
    parser.add_argument("--extractor", choices=list(EXTRACTORS), default="inception")
    parser.add_argument("--weights", type=Path, help="the extractor's weights file (default: its own)")
    parser.add_argument("--out", type=Path, required=True, metavar="STATS.safetensors")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if options.out.suffix != ".safetensors":
            raise GocError(f"--out={options.out}: must end in .safetensors")
        extractor = load_extractor(options.extractor, options.weights, device)
        weights_sha256 = extractor_sha256(options.extractor, options.weights)
        reference = load_reference(options.images, extractor, weights_sha256, None, device, None, need_features=True)
        save_reference(options.out, reference)
    except (GocError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    held = "no single images" if reference.features is None else f"features of {len(reference.features)} images"
    print(f"{options.out}: statistics on {reference.extractor}, {held}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
