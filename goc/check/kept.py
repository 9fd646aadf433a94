"""What a check that has not come to its end keeps of its parts, so that the same command goes on with the others.

Only parts that passed, or that the machine lacks something for, are kept: what failed, or found no time, is run again.
All are forgotten when a check comes to its end.
"""

import json
import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from goc.check.setting import Outcome, Report, Setting, Table
from goc.check.step_table import machine
from goc.system.files import PACKAGE, content_key, file_sha256, files_sha256, read_json, write_text
from goc.system.sealed import json_sha256

FOLDER = "unfinished"
GOOD = ("passed", "skipped")  # states of parts that are kept
MEASURED_WITH = ("torch", "triton", "diffusers", "cache-dit")


def check_key(setting: Setting, oracles: Sequence[Path]) -> str:
    """All that a part's outcome depends on: setting, code, libraries, device, and the files it is compared with."""
    return content_key(
        {
            "setting": asdict(setting),
            "code": files_sha256(PACKAGE, _package_files()),
            "libraries": [_version(name) for name in MEASURED_WITH],
            "device": [platform.node(), machine()],
            "oracles": [[str(file), file_sha256(file)] for of in oracles for file in sorted(of.glob("*.safetensors"))],
        }
    )


def _package_files() -> Iterator[Path]:
    """The code and what is shipped with it, as the embedded models."""
    yield from (path for path in sorted(PACKAGE.rglob("*")) if path.is_file() and path.suffix != ".pyc")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@dataclass(frozen=True)
class Kept:
    """The kept parts in a folder, of checks with one key; others are not seen."""

    folder: Path
    key: str

    def path(self, name: str) -> Path:
        """The file of a part."""
        return self.folder / FOLDER / f"{name}.json"

    def keep(self, report: Report) -> None:
        """Put a part on disk, if it is a good one."""
        if report.state in GOOD and report.outcome and not report.kept:
            body = {"key": self.key, "seconds": report.seconds, "outcome": _plain(report.outcome)}
            write_text(self.path(report.name), json.dumps({**body, "sha256": json_sha256(body)}))

    def report(self, name: str) -> Report | None:
        """A part that was kept; None: there is none. Raises ValueError for a damaged file, or of another check."""
        try:
            body = read_json(self.path(name))
            checksum = body.pop("sha256")
            if checksum != json_sha256(body):
                raise ValueError("its checksum does not match")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self.path(name)}: is damaged ({error})") from error
        if body["key"] != self.key:
            raise ValueError(f"{self.path(name)}: is of other code, another setting or another machine")
        return Report(name, body["seconds"], _outcome(body["outcome"]), kept=True)

    def reports(self, names: Iterable[str]) -> dict[str, Report]:
        """The kept ones of some parts, by name; says which files cannot be used."""
        kept = {}
        for name in names:
            try:
                report = self.report(name)
            except ValueError as error:
                print(f"{error}: {name} is run again", flush=True)
                continue
            if report:
                kept[name] = report
        return kept

    def forget(self, names: Iterable[str]) -> None:
        """Remove what is kept of some parts, whatever its key."""
        for name in names:
            self.path(name).unlink(missing_ok=True)
        folder = self.folder / FOLDER
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _plain(outcome: Outcome) -> dict[str, Any]:
    """An outcome as JSON-able values; numbers keep all of their digits."""
    table = outcome.table
    return {
        "table": {name: getattr(table, name) for name in ("name", "title", "reading", "columns")},
        "names": list(table.frame.columns),
        "rows": table.frame.astype(object).to_numpy().tolist(),
        "said": {name: getattr(outcome, name) for name in ("failures", "findings", "missing")},
    }


def _outcome(plain: dict[str, Any]) -> Outcome:
    frame = pd.DataFrame(plain["rows"], columns=plain["names"])
    return Outcome(Table(**plain["table"], frame=frame), **plain["said"])
