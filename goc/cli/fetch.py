"""Download what the published ImageNet protocol needs, and check that it stays what it was.

    goc fetch                      what 256x256 needs, into weights/
    goc fetch dit-512 --out DIR    chosen items
    goc fetch --list
    goc fetch --mirror http://HOST/PATH     from a copy of such a folder: PATH/DESTINATION

A stopped download goes on where it was. A file must have its published SHA-256, whether it was downloaded or put there
by hand. Where none is known (--list and the download say so), the one first seen is written to weights.lock.json in the
folder, and is checked from then on.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import requests
from tqdm import tqdm

from goc.system.arguments import command_parser
from goc.system.errors import GocError, fail
from goc.system.files import file_sha256, write_atomically, write_json
from goc.system.locks import Lock
from goc.system.published import DINOV2_FILE, PUBLISHED_SHA256

LOCK = "weights.lock.json"
TIMEOUTS = (15, 60)  # seconds to connect, and without a byte
UNKNOWN = "  (no published SHA-256 is known)"
CHUNK = 1 << 16  # bytes; a chunk that was cut off is lost and asked for again

DIT = "https://dl.fbaipublicfiles.com/DiT/models"
SIT = "https://www.dl.dropboxusercontent.com/scl/fi/as9oeomcbub47de5g4be0/SiT-XL-2-256.pt?rlkey=uxzxmpicu46coq3msb17b9ofa&dl=0"
HUB = "https://huggingface.co/stabilityai"
FIDELITY = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0"
ADM = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches/imagenet"
TORCHVISION = "https://download.pytorch.org/models"
L2C = "https://raw.githubusercontent.com/horseee/learning-to-cache/23d80454a9ff42f8eec55a68db83ec88cf859c62/DiT/ckpt"
DINO = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14"
EDM2 = "https://nvlabs-fi-cdn.nvidia.com/edm2/dataset-refs"
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
VAE_FILES = ("config.json", "diffusion_pytorch_model.safetensors")


@dataclass(frozen=True)
class File:
    """One file of an item: where it comes from, and where it goes in the folder."""

    item: str
    url: str
    destination: str

    @property
    def sha256(self) -> str | None:
        """Its published SHA-256; None: none is known."""
        return PUBLISHED_SHA256.get(self.destination)


FILES = (
    *(File(f"dit-{size}", f"{DIT}/DiT-XL-2-{size}x{size}.pt", f"DiT-XL-2-{size}x{size}.pt") for size in (256, 512)),
    File("sit-256", SIT, "SiT-XL-2-256x256.pt"),
    *(
        File(f"vae-{kind}", f"{HUB}/sd-vae-ft-{kind}/resolve/main/{name}", f"sd-vae-ft-{kind}/{name}")
        for kind in ("ema", "mse")
        for name in VAE_FILES
    ),
    File("inception", f"{FIDELITY}/{INCEPTION}", INCEPTION),
    File("lpips", f"{FIDELITY}/weights-vgg16-lpips.pth", "lpips/checkpoints/weights-vgg16-lpips.pth"),
    File("lpips", f"{TORCHVISION}/vgg16-397923af.pth", "lpips/checkpoints/vgg16-397923af.pth"),
    File("reference-256", f"{ADM}/256/VIRTUAL_imagenet256_labeled.npz", "VIRTUAL_imagenet256_labeled.npz"),
    File("reference-512", f"{ADM}/512/VIRTUAL_imagenet512.npz", "VIRTUAL_imagenet512.npz"),
    File("dinov2", f"{DINO}/{DINOV2_FILE}", DINOV2_FILE),
    File("dinov2-reference-512", f"{EDM2}/img512.pkl", "edm2-img512.pkl"),
    *(File("l2c-routers", f"{L2C}/DDIM{steps}_router.pt", f"DDIM{steps}_router.pt") for steps in (20, 50)),
)
WIDEST = max(len(file.item) for file in FILES)
ITEMS = list(dict.fromkeys(file.item for file in FILES))
DEFAULT = ["dit-256", "vae-ema", "inception", "reference-256"]


class DownloadError(Exception):
    """A server that did not give the file; the text is the reason."""


def partial(path: Path) -> Path:
    """Where a file grows until it is complete."""
    return path.with_name(path.name + ".part")


def version_file(path: Path) -> Path:
    """Holds the server's name (ETag or date) for the version that the .part file is of."""
    return path.with_name(path.name + ".part.version")


def size(path: Path) -> int:
    """Bytes of a file; 0 if there is none."""
    return path.stat().st_size if path.exists() else 0


def discard(path: Path) -> None:
    """Remove what is there of an incomplete download."""
    partial(path).unlink(missing_ok=True)
    version_file(path).unlink(missing_ok=True)


def receive(url: str, path: Path) -> None:
    """One request: continue path's .part file to its end, or write it anew if the server sends the whole file.

    Raises DownloadError or requests.RequestException; what has arrived by then stays in the .part file.
    """
    part, version = partial(path), version_file(path)
    part.parent.mkdir(parents=True, exist_ok=True)
    start = size(part)
    headers = {"Accept-Encoding": "identity"}  # byte positions and lengths are then those of the file
    if start:
        headers["Range"] = f"bytes={start}-"
        if version.exists():
            headers["If-Range"] = version.read_text(encoding="utf-8")
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUTS) as response:
        span = response.headers.get("Content-Range", "")  # "bytes 5-9/10", or "bytes */10" with status 416
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            if span != f"bytes */{start}":
                discard(path)
                raise DownloadError("the file there is shorter than what was downloaded of it; run this again")
            return  # all of it is here: stopped after the last byte
        if response.status_code not in (requests.codes.ok, requests.codes.partial_content):
            raise DownloadError(f"HTTP status {response.status_code}")
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise DownloadError("a web page came instead of the file")
        if response.status_code == requests.codes.ok:
            start = 0
        elif not span.startswith(f"bytes {start}-"):
            raise DownloadError(f"asked for bytes from {start}, got {span or 'others'}")
        name = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if start == 0:
            discard(path)
            if name:
                write_atomically(version, name.encode())
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        bar = tqdm(desc=path.name, total=total, initial=start, unit="B", unit_scale=True, unit_divisor=1024)
        with part.open("ab") as file, bar:
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))


def download(url: str, path: Path) -> None:
    """All of a URL into path's .part file, asking again for the rest as long as each answer brings it further."""
    reached = size(partial(path))
    while True:
        try:
            return receive(url, path)
        except requests.RequestException as error:
            if size(partial(path)) <= reached:
                raise DownloadError(type(error).__name__) from error
            reached = size(partial(path))


def read_lock(folder: Path) -> dict[str, str]:
    """SHA-256 by destination of the files seen in a folder; raises GocError if the lock file is damaged."""
    path = folder / LOCK
    if not path.exists():
        return {}
    try:
        lock = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): str(digest) for name, digest in lock.items()}
    except (ValueError, AttributeError) as error:
        raise GocError(f"{path}: damaged ({error}); restore it, or delete it to trust the files as they are") from error


def verify(file: File, content: Path, folder: Path) -> str:
    """Check a file's content against its published hash, or else the lock, and enter it there; says what it is now.

    Raises GocError naming file, expected and found hash, and what to do.
    """
    digest, lock, path = file_sha256(content), read_lock(folder), folder / file.destination
    expected = file.sha256 or lock.get(file.destination)
    if expected not in (None, digest):
        again = "the download was discarded, run this again" if content != path else "delete it and run this again"
        kind, trust = "published", ""
        if not file.sha256:
            kind, trust = "first seen", f"; to accept the new content, remove its line from {folder / LOCK}"
        raise GocError(f"{path}: expected SHA-256 {expected} ({kind}), found {digest}; {again}{trust}")
    if lock.get(file.destination) != digest:
        write_json(folder / LOCK, lock | {file.destination: digest})
    if file.sha256:
        return "has the published SHA-256"
    if expected:
        return "has the SHA-256 first seen; no published one is known"
    return f"no published SHA-256 is known, {digest} is trusted from now on"


def fetch(file: File, folder: Path, mirror: str | None) -> None:
    """Have a file in the folder, whole and with the right content; raises GocError with one line if that fails."""
    path = folder / file.destination
    if path.exists():
        print(f"{path}: present, {verify(file, path, folder)}")
        return
    try:
        download(source(file, mirror), path)
    except DownloadError as error:
        advice = f"download {file.url} by hand to {path} and run this again"
        raise GocError(f"{path}: not downloaded ({error}); {advice}") from error
    try:
        state = verify(file, partial(path), folder)
    except GocError:
        discard(path)
        raise
    partial(path).replace(path)
    discard(path)
    print(f"{path}: downloaded, {state}")


def source(file: File, mirror: str | None) -> str:
    """The URL to ask: the publisher's, or the same destination below a mirror."""
    return f"{mirror.rstrip('/')}/{file.destination}" if mirror else file.url


def listing(file: File, folder: Path, mirror: str | None) -> str:
    """One line about a file: item, state, size on disk, URL, destination, and whether its SHA-256 is not known."""
    path = folder / file.destination
    part = partial(path)
    state = "present" if path.exists() else "partial" if part.exists() else "missing"
    here = "-" if state == "missing" else f"{(size(path) or size(part)) / 2**20:.1f} MiB"
    return (
        f"{file.item:<{WIDEST}}  {state}  {here:>10}  {source(file, mirror)} -> {path}{'' if file.sha256 else UNKNOWN}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Download what is asked for; returns 1 if a file could not be had or is not what it should be."""
    parser = command_parser(__doc__)
    parser.add_argument("items", nargs="*", metavar="ITEM", help=f"{', '.join(ITEMS)} (default {' '.join(DEFAULT)})")
    parser.add_argument("--out", type=Path, default=Path("weights"), help="folder to download into (default weights/)")
    parser.add_argument(
        "--mirror", metavar="BASE_URL", help="ask BASE_URL/DESTINATION, the folder's own layout, instead of the sources"
    )
    parser.add_argument("--list", action="store_true", help="what there is, where from, and what is here; no download")
    parser.add_argument("--dry-run", action="store_true", help="what would be downloaded where; nothing is written")
    args = parser.parse_args(argv)
    unknown = [item for item in args.items if item not in ITEMS]
    if unknown:
        parser.error(f"{unknown[0]}: must be one of {', '.join(ITEMS)}")
    if args.mirror and not args.mirror.startswith(("http://", "https://")):
        parser.error(f"--mirror {args.mirror}: must start with http:// or https://")

    chosen = args.items or (ITEMS if args.list else DEFAULT)
    files = [file for file in FILES if file.item in chosen]
    if args.list or args.dry_run:
        for file in files:
            path = args.out / file.destination
            if args.list:
                print(listing(file, args.out, args.mirror))
            elif path.exists():
                print(f"{path}: present")
            else:
                print(f"would download {source(file, args.mirror)} -> {path}")
        return 0

    failed = False
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        with Lock(args.out / ".fetch.lock"):  # two downloads into one .part file would spoil it
            for file in files:
                try:
                    fetch(file, args.out, args.mirror)
                except GocError as error:
                    failed = True
                    fail(error)
    except OSError as error:
        raise GocError(f"{args.out}: cannot be written ({error})") from error
    return int(failed)
