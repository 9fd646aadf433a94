"""The shape of a denoiser, as far as the weights in its checkpoint tell it."""

import logging
import re
from collections.abc import Mapping
from math import isqrt
from pathlib import Path

from torch import Tensor

from goc.models.checkpoint import read_entry, require_checkpoint
from goc.models.dit import PUBLISHED_SIZES
from goc.models.entries import pick_model, unwrapped
from goc.system.errors import ConfigError, GocError

NAMES = re.compile(r"(?:^|\.)((?:[xty]_embedder|blocks\.\d+|final_layer)\..+|pos_embed)$")
UNTOLD = "num_heads"  # by any tensor's shape
HEADS = {hidden: heads for _, hidden, heads in PUBLISHED_SIZES.values()}

log = logging.getLogger(__name__)


def complete(shape: Mapping[str, int], checkpoint: Path) -> dict[str, int]:
    """A denoiser's shape, DiT's arguments, where 0 is to be read from its checkpoint; says what was read.

    Raises GocError if there is no such file or it holds no DiT, ConfigError for the first that it does not tell.
    """
    require_checkpoint(checkpoint)
    try:
        entry = read_entry(checkpoint)
        names = {matched[1] for name in unwrapped(entry.state) if (matched := NAMES.search(name))}
        told = told_by(pick_model(entry, names).state)
    except (ValueError, KeyError, IndexError) as error:
        raise GocError(f"model.checkpoint={checkpoint}: holds no DiT whose shape can be read ({error})") from error
    whole = {name: value or told.get(name, 0) for name, value in shape.items()}
    lacking = next((name for name, value in whole.items() if not value), None)
    if lacking is not None:
        raise ConfigError(
            f"model.{lacking}=0: must be named, as the shapes in model.checkpoint={checkpoint} do not tell"
        )
    read = [name for name, value in shape.items() if not value]
    said = ", ".join(f"{name}={whole[name]}" for name in read if name != UNTOLD)
    log.info("model.checkpoint=%s: read from its shapes: %s", checkpoint, said)
    if UNTOLD in read:
        log.info(
            "model.%s=%d: as DiT's published models of width %d, which no shape tells; another makes other images",
            UNTOLD, whole[UNTOLD], whole["hidden_size"],
        )  # fmt: skip
    return whole


def told_by(state: Mapping[str, Tensor]) -> dict[str, int]:
    """What the tensors of a DiT tell of its shape; the number of heads where it is that of a published width.

    A label table of 1,001 rows, or another number that ends in 1, has a null label; one that ends in 0 has none.
    Otherwise it is left open.
    """
    hidden, channels, patch, _ = state["x_embedder.proj.weight"].shape
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    told = {"hidden_size": hidden, "in_channels": channels, "patch_size": patch, "depth": depth}
    if hidden in HEADS:
        told[UNTOLD] = HEADS[hidden]
    rows = len(state["y_embedder.embedding_table.weight"])
    if rows % 10 in (0, 1):
        told["num_classes"] = rows - rows % 10
    if "pos_embed" in state and isqrt(tokens := state["pos_embed"].shape[1]) ** 2 == tokens:
        told["input_size"] = isqrt(tokens) * patch
    return told
