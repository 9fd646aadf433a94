"""Makes a saved file of statistics of real images, so that features are extracted only once.

    goc reference IMAGES_OR_NPZ --extractor inception [--weights FILE] --out stats.safetensors
    goc reference imagenet/train --crop adm --size 256 --workers 16 --out imagenet256.safetensors

Its path is then what model.reference names, or with --extractor dinov2, for FD-DINOv2, model.second_reference. Killed,
the same command goes on where it was.
"""

import argparse
import os
from pathlib import Path

from goc.metrics.image_folder import CROPS
from goc.metrics.registry import NAMED
from goc.system.arguments import command_parser
from goc.system.errors import ConfigError, GocError

MOST_WORKERS = 8  # unless more are asked for
ADMS_IMAGES = 10_000  # single images in ADM's files


def main(arguments: list[str] | None = None) -> int:
    """Command line: make a saved statistics file."""
    parser = command_parser(__doc__, "goc reference")
    parser.add_argument("images", type=Path, metavar="IMAGES_OR_NPZ", help="folder of images, or ADM's .npz")
    names = f"one of {', '.join(NAMED)} (default inception)"
    parser.add_argument("--extractor", metavar="NAME", default="inception", help=names)
    parser.add_argument("--weights", type=Path, help="the extractor's weights file (default: its own)")
    parser.add_argument("--crop", choices=CROPS, help="adm: images of any size, by ADM's center crop to --size")
    parser.add_argument("--size", type=int, help="of the crop, in pixels")
    parser.add_argument("--features", type=int, metavar="N", help="keep features of at most so many single images, for "
                        f"kid and prc, evenly over the names (default: all; with --crop {ADMS_IMAGES})")  # fmt: skip
    parser.add_argument("--workers", type=int, default=min(MOST_WORKERS, os.cpu_count() or 1),
                        help="threads that read images; they change no number (default: %(default)s)")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="STATS.safetensors")
    options = parser.parse_args(arguments)
    check(options)
    # imported here, as they take seconds that --help should not
    from goc.metrics.features import load_extractor
    from goc.metrics.real_images import folder_images
    from goc.metrics.reference import load_reference, make_reference, save_reference
    from goc.system.device import choose_device

    extractor = load_extractor(options.extractor, options.weights, choose_device("auto"))
    if options.images.is_dir():
        if options.size is not None:
            extractor.check(extractor.kind.channels, (options.size, options.size))
        images = folder_images(
            options.images, extractor.kind.channels, options.size, crop=options.crop, workers=options.workers
        )
        most = options.features or (ADMS_IMAGES if options.crop else None)
        reference = make_reference(images, extractor, options.out, most)
    else:
        reference = load_reference(options.images, extractor, None, need_features=True, cache_dir=None)
        save_reference(options.out, reference)
    held = "no single images" if reference.features is None else f"features of {len(reference.features)} images"
    print(f"{options.out}: statistics on {reference.extractor}, {held}")
    return 0


def check(options: argparse.Namespace) -> None:
    """Raise GocError for the first option that does not go with the others."""
    if options.out.suffix != ".safetensors":
        raise GocError(f"--out={options.out}: must end in .safetensors")
    for name in ("size", "features", "workers"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name}={value}: must be at least 1")
    if (options.crop is None) != (options.size is None):
        given, missing = ("size", "crop") if options.crop is None else ("crop", "size")
        raise ConfigError(f"--{given}={getattr(options, given)}: needs --{missing} too")
    for name in ("crop", "features"):
        if getattr(options, name) is not None and options.images.is_file():
            raise ConfigError(f"--{name}={getattr(options, name)}: is for a folder of images, not for a file")
