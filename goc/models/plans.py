"""The text of schedules' and learned weights' files; the shipped ones are entries of one file for each model.

`asset:digits/plans/digits-1-ddim20-5.json` is the entry "ddim20-5" of `asset:digits/plans/digits-1.json`, and its text
is what a file of its own would hold.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from goc.system.files import ASSET_PREFIX, file_sha256, read_json, resolve

OWN_FRONT = "outputs/fronts/{model}-{sampler}{steps}-cfg{cfg_scale}.json"  # of goc train front


def as_text(content: dict[str, Any]) -> str:
    """A schedule's file: one entry a line."""
    lines = (f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in content.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read_plan(path: str) -> Any:
    """The JSON of a schedule's file; raises OSError if it is missing, ValueError if it is none."""
    return read_json(resolve(path)) if (entry := _shipped(path)) is None else entry


def plan_sha256(path: str) -> str | None:
    """SHA-256 of a file's text; None: it is not there, or no file."""
    if (entry := _shipped(path)) is not None:
        return hashlib.sha256(as_text(entry).encode()).hexdigest()
    return file_sha256(resolve(path)) if resolve(path).is_file() else None


def _shipped(path: str) -> dict[str, Any] | None:
    """The entry that a shipped file has become; None: it is no such path."""
    named = resolve(path)
    if not path.startswith(ASSET_PREFIX) or named.is_file():
        return None
    models = [file for file in named.parent.glob("*.json") if named.stem.startswith(f"{file.stem}-")]
    if not models:
        return None
    model: Path = max(models, key=lambda file: len(file.stem))
    plan = read_json(model).get(named.stem.removeprefix(f"{model.stem}-"))
    return plan if isinstance(plan, dict) else None
