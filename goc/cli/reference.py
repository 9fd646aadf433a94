"""Makes a saved file of statistics of real images, so that features are extracted only once.

    goc reference IMAGES_OR_NPZ --extractor inception [--weights FILE] --out stats.safetensors

Its path is then what model.reference names, or with --extractor dinov2, for FD-DINOv2, model.second_reference.
"""

import argparse
from pathlib import Path

from goc.metrics.registry import NAMED
from goc.system.errors import GocError


def main(arguments: list[str] | None = None) -> int:
    """Command line: make a saved statistics file."""
    parser = argparse.ArgumentParser(
        prog="goc reference", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path, metavar="IMAGES_OR_NPZ", help="folder of images, or ADM's .npz")
    names = f"one of {', '.join(NAMED)} (default inception)"
    parser.add_argument("--extractor", metavar="NAME", default="inception", help=names)
    parser.add_argument("--weights", type=Path, help="the extractor's weights file (default: its own)")
    parser.add_argument("--out", type=Path, required=True, metavar="STATS.safetensors")
    options = parser.parse_args(arguments)
    # imported here, as they take seconds that --help should not
    from goc.metrics.features import load_extractor
    from goc.metrics.reference import load_reference, save_reference
    from goc.system.device import choose_device

    if options.out.suffix != ".safetensors":
        raise GocError(f"--out={options.out}: must end in .safetensors")
    extractor = load_extractor(options.extractor, options.weights, choose_device("auto"))
    reference = load_reference(options.images, extractor, None, need_features=True, cache_dir=None)
    save_reference(options.out, reference)
    held = "no single images" if reference.features is None else f"features of {len(reference.features)} images"
    print(f"{options.out}: statistics on {reference.extractor}, {held}")
    return 0
