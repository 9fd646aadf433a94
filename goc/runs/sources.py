"""The files of a run by name, each with its hash: what its samples and their features depend on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from goc.config import ModelConfig
from goc.metrics.features import extractor_weights
from goc.metrics.real_images import folder_sha256
from goc.system.errors import GocError
from goc.system.files import file_sha256, resolve


@dataclass(frozen=True)
class Source:
    """A file or a folder, and how its SHA-256 is made."""

    path: Path
    hashed: Callable[[Path], str] = file_sha256

    @property
    def sha256(self) -> str:
        """Of what is there now."""
        return self.hashed(self.path)


@dataclass(frozen=True)
class Sources:
    """The files of a run by the names under which a result has their hashes, without `_sha256`.

    files: as its kind of model says them (`goc.runs.loaded.Loaded.files`); None: the settings name none. reference: of
    real images; None where no features are wanted. network: what an extractor of timm depends on besides its weights.
    """

    files: Mapping[str, Source | None]
    reference: Path | None
    network: Mapping[str, str] = field(default_factory=dict)

    def path(self, name: str) -> Path | None:
        """Where a file is; None: there is none of this name."""
        source = self.files.get(name)
        return None if source is None else source.path

    def weights(self) -> dict[str, str | None]:
        """Hashes of all that a sample and its features depend on, as they were at first: weights, prompts if any."""
        return dict(self._first)

    @cached_property
    def _first(self) -> dict[str, str | None]:
        return self._hashes()

    def _hashes(self) -> dict[str, str | None]:
        """The same, of the files as they are."""
        files = {f"{name}_sha256": None if source is None else source.sha256 for name, source in self.files.items()}
        return {**files, **self.network}

    @cached_property
    def reference_sha256(self) -> str | None:
        """Of the real images, if there are any."""
        return None if self.reference is None else reference_sha256(self.reference)

    def require_unchanged(self) -> None:
        """Raise GocError if a file that was loaded by now is another one than at first."""
        require_same(self.weights(), self._hashes())


def reference_sha256(path: Path) -> str | None:
    """Of real images: of a file, or of all names and contents in a folder, which is read whole; None: a missing one."""
    if not path.exists():
        return None
    return (folder_sha256 if path.is_dir() else file_sha256)(path)


def require_same(first: Mapping[str, str | None], now: Mapping[str, str | None]) -> None:
    """Raise GocError for the first file whose SHA-256, by its setting, is another one now than it was."""
    for name in {**first, **now}:
        if first.get(name) != now.get(name):
            setting = name.removesuffix("_sha256")
            raise GocError(f"{setting}: its file changed while the run started; start the same command again")


def weights_of_extractor(model: ModelConfig) -> Path | None:
    """Its weights file; None: there is no extractor."""
    if model.extractor is None:
        return None
    named = None if model.extractor_weights is None else resolve(model.extractor_weights)
    return extractor_weights(model.extractor, named)
