"""Measures images that were made elsewhere as a run's: `goc score FOLDER_OR_NPZ --name "their cache" model=digits`.

Settings are run.py's, and say whose measurement the images are of and by what they are scored: model=...,
cfg_scale=..., sampler=..., steps=..., seed=..., metrics=[isc,fid]. The result stands beside runs of the same
measurement: `goc report outputs/STUDY outputs/scored`.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from goc.config import compose_config, validate
from goc.system.arguments import command_parser
from goc.system.errors import ConfigError

if TYPE_CHECKING:
    from goc.report.result import Result

SCORED = Path("outputs/scored")
LONGEST_NAME = 100  # characters
# a measurement of its own, for images that are of no model of ours
ELSEWHERE = ("model=dit_xl_2_256", "model.name=elsewhere", "model.checkpoint=none", "model.in_channels=3", "vae=null")


def score(images: Path, overrides: Sequence[str], name: str, out: Path | None, against: Path | None,
          **said: Any) -> "Result":  # fmt: skip
    """Measure images; the rest as `goc.runs.scored.Elsewhere` has it."""
    if not name.strip() or not name.isprintable() or len(name) > LONGEST_NAME:
        raise ConfigError(f"name={name[:LONGEST_NAME]!r}: must be a few words, which tables show")
    for key in ("evaluations", "gmacs", "seconds"):
        value = said.get(key)
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(f"{key}={value}: must be a number above 0")
    config = compose_config(["method=none", "converged_samples=0", "name=scored", *overrides])
    validate(config)
    counted = any(text.partition("=")[0] == "num_samples" for text in overrides)
    from goc.runs.scored import Elsewhere, score_images

    # no dot first: .. is another folder, and hidden ones are no report's
    folder = out or SCORED / re.sub(r"[^\w.-]+|^\.+", "-", name.strip())
    return score_images(images, Elsewhere(name, **said), config, folder, against, counted)


def main(arguments: list[str] | None = None) -> int:
    """Command line: measure images made elsewhere."""
    parser = command_parser(__doc__, "goc score")
    parser.add_argument("images", type=Path, metavar="FOLDER_OR_NPZ", help="square images of one size, or ADM's arr_0")
    parser.add_argument("settings", nargs="*", help="as for run.py: model=..., cfg_scale=..., metrics=[isc,fid]")
    parser.add_argument("--name", required=True, help="of what made them, in tables")
    parser.add_argument("--against", type=Path, metavar="FOLDER_OR_NPZ", help="the same seeds without a cache")
    parser.add_argument("--paired", action="store_true", help="image i is of the same seed as sample i of other rows")
    parser.add_argument("--evaluations", type=float, help="of the network, for one image")
    parser.add_argument("--gmacs", type=float, help="for one image")
    parser.add_argument("--seconds", type=float, help="for one image")
    parser.add_argument("--out", type=Path, help=f"folder of the result (default: {SCORED}/NAME)")
    options = parser.parse_intermixed_args(arguments)
    cost = {key: getattr(options, key) for key in ("evaluations", "gmacs", "seconds")}
    print(score(options.images, options.settings, options.name, options.out, options.against, paired=options.paired,
                **cost))  # fmt: skip
    return 0
