"""Bad reference images, arrays and statistics: each is refused in one line that names the file and says why."""

import io
import os
import re
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import png, saved
from PIL import Image
from safetensors.torch import save_file

from goc.metrics.features import Extractor, load_extractor
from goc.metrics.real_images import folder_images
from goc.metrics.reference import load_reference
from goc.system.errors import GocError

SIZE = 8
RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (3, SIZE, SIZE, 1)).astype(np.uint8)
COLOUR = RANDOM.integers(0, 256, (3, SIZE, SIZE, 3)).astype(np.uint8)
FEATURES = RANDOM.standard_normal((80, 64))
MU, SIGMA = FEATURES.mean(axis=0), np.cov(FEATURES, rowvar=False)


@dataclass(frozen=True)
class Folder:
    """A folder of two good images and one bad: what the bad one is called and holds, and what the answer says of it."""

    name: str
    file: str
    content: Callable[[], bytes]
    says: str
    channels: int = 3

    def __str__(self) -> str:
        return self.name


def picture(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(COLOUR[0]).convert(mode)


def with_alpha(mode: str, alpha: int, format: str = "PNG") -> bytes:
    image = picture("L" if mode == "LA" else "RGB")
    image.putalpha(alpha)
    return saved(image, format)


def one_transparent_colour(mode: str) -> bytes:
    image = picture(mode)
    return saved(image, transparency=image.getpixel((0, 0)))


def palette_with_transparency() -> bytes:
    image = picture().quantize(8)
    return saved(image, transparency=image.getpixel((0, 0)))


def grey_16(values: np.ndarray, format: str = "PNG", **options: object) -> bytes:
    return saved(Image.fromarray(values.astype(np.uint16)), format, **options)


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(picture(), "JPEG", exif=exif)


def several(format: str) -> bytes:
    second = Image.fromarray(COLOUR[1])
    return saved(picture(), format, save_all=True, append_images=[second])


def bomb() -> bytes:
    """A PNG whose header says 60000x60000."""
    content = bytearray(saved(picture()))
    content[16:24] = struct.pack(">II", 60000, 60000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def min_is_white() -> bytes:
    """A grey TIFF of 16 bits whose tag 262 says that 0 is white, which Pillow reads as if it were black."""
    content = bytearray(grey_16(GREY[0, ..., 0].astype(int) * 257, "TIFF"))
    tag = struct.pack("<HHIH", 262, 3, 1, 1)
    at = content.index(tag)
    content[at + 8] = 0
    return bytes(content)


TEXT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(x) = quit\n"

FOLDERS = [
    Folder("a dark ppm", "x.ppm", lambda: b"P6 8 8 65535\n" + bytes((0, 200)) * 192, "no value above 255"),
    Folder("a dark png in colour", "x.png", lambda: png(np.full((8, 8, 3), 200, np.uint16)), "no value above 255"),
    Folder("garbage", "x.png", lambda: b"garbage", "x.png is damaged or no image"),
    Folder("empty", "x.png", lambda: b"", "x.png is damaged or no image"),
    Folder("a line break in its name", "x\ny.png", lambda: b"", r"'x\\ny.png' is damaged or no image"),
    Folder("truncated png", "x.png", lambda: saved(picture())[:-30], "x.png is damaged or no image"),
    Folder("truncated jpeg", "x.jpg", lambda: saved(picture(), "JPEG")[:-200], "x.jpg is damaged or no image"),
    Folder("truncated webp", "x.webp", lambda: saved(picture(), "WEBP")[:-20], "x.webp is damaged or no image"),
    Folder("truncated tiff", "x.tif", lambda: saved(picture(), "TIFF")[:100], "x.tif is damaged or no image"),
    Folder("truncated bmp", "x.bmp", lambda: saved(picture(), "BMP")[:100], "x.bmp is damaged or no image"),
    Folder("PostScript by the name of an image", "x.png", lambda: TEXT, "x.png is damaged or no image"),
    Folder("a bomb", "x.png", bomb, "x.png is damaged or no image .*exceeds limit"),
    Folder("another size", "x.png", lambda: saved(picture().resize((9, 9))), "x.png is 9x9 pixels, not 8x8"),
    Folder("not square", "x.png", lambda: saved(picture().resize((8, 9))), "x.png is 8x9 pixels, not 8x8"),
    Folder("one pixel", "x.png", lambda: saved(picture().resize((1, 1))), "x.png is 1x1 pixels, not 8x8"),
    Folder("alpha", "x.png", lambda: with_alpha("RGBA", 128), "x.png has transparent pixels"),
    Folder("invisible", "x.png", lambda: with_alpha("RGBA", 0), "x.png has transparent pixels"),
    Folder("grey with alpha", "x.png", lambda: with_alpha("LA", 254), "x.png has transparent pixels"),
    Folder("webp with alpha", "x.webp", lambda: with_alpha("RGBA", 9, "WEBP"), "x.webp has transparent pixels"),
    Folder("tiff with alpha", "x.tif", lambda: with_alpha("RGBA", 9, "TIFF"), "x.tif has transparent pixels"),
    Folder("tga with alpha", "x.tga", lambda: with_alpha("RGBA", 9, "TGA"), "x.tga has transparent pixels"),
    Folder("transparent palette", "x.png", palette_with_transparency, "x.png has transparent pixels"),
    Folder("a transparent colour", "x.png", lambda: one_transparent_colour("RGB"), "x.png has transparent pixels"),
    Folder("a transparent grey", "x.png", lambda: one_transparent_colour("L"), "x.png has transparent pixels", 1),
    Folder("16 bits up to 255", "x.png", lambda: grey_16(GREY[0, ..., 0]), "x.png is of 16 bits but has no value"),
    Folder("16 bits where 0 is white", "x.tif", min_is_white, "x.tif is a TIFF of grey where 0 is white"),
    Folder("float", "x.tif", lambda: saved(picture("F"), "TIFF"), "x.tif is of the mode F, must be grey or RGB"),
    Folder("32 bits", "x.tif", lambda: saved(picture("I"), "TIFF"), "x.tif is of the mode I, must be grey or RGB"),
    Folder("CMYK jpeg", "x.jpg", lambda: saved(picture("CMYK"), "JPEG"), "x.jpg is of the mode CMYK"),
    Folder("CMYK tiff", "x.tif", lambda: saved(picture("CMYK"), "TIFF"), "x.tif is of the mode CMYK"),
    Folder("LAB", "x.tif", lambda: saved(picture("LAB"), "TIFF"), "x.tif is of the mode LAB"),
    Folder("YCbCr", "x.tif", lambda: saved(picture("YCbCr"), "TIFF"), "x.tif is of the mode YCbCr"),
    Folder("animated gif", "x.gif", lambda: several("GIF"), "x.gif has 2 pictures in it, must have one"),
    Folder("animated webp", "x.webp", lambda: several("WEBP"), "x.webp has 2 pictures in it, must have one"),
    Folder("animated png", "x.png", lambda: several("PNG"), "x.png has 2 pictures in it, must have one"),
    Folder("several pages", "x.tiff", lambda: several("TIFF"), "x.tiff has 2 pictures in it, must have one"),
    Folder("turned", "x.JPG", lambda: turned(6), "x.JPG is to be turned when shown .EXIF orientation 6"),
    Folder("mirrored", "x.jpeg", lambda: turned(2), "x.jpeg is to be turned when shown .EXIF orientation 2"),
    Folder("colour for grey", "x.png", lambda: saved(picture()), "x.png is in colour, must be grey", 1),
    Folder("coloured palette", "x.png", lambda: saved(picture().quantize(8)), "x.png is in colour, must be grey", 1),
]  # fmt: skip


def one_line(raised: "pytest.ExceptionInfo[GocError]", path: Path, says: str) -> None:
    text = str(raised.value)
    assert text.startswith(f"model.reference={path}: ")
    assert "\n" not in text
    assert re.search(says, text), text


@pytest.mark.parametrize("bad", FOLDERS, ids=str)
def test_a_bad_image_is_named(tmp_path: Path, bad: Folder) -> None:
    for index in range(2):
        Image.fromarray(GREY[index, ..., 0]).save(tmp_path / f"{index}.png")
    (tmp_path / bad.file).write_bytes(bad.content())
    with pytest.raises(GocError) as raised:
        list(folder_images(tmp_path, bad.channels, SIZE).batches())
    one_line(raised, tmp_path, bad.says)


def test_an_image_that_changes_while_the_images_are_read_is_named(tmp_path: Path) -> None:
    for index in range(3):
        Image.fromarray(GREY[index, ..., 0]).save(tmp_path / f"{index}.png")
    images = folder_images(tmp_path, 1, SIZE)
    Image.fromarray(GREY[0, ..., 0]).save(tmp_path / "1.png")
    with pytest.raises(GocError) as raised:
        list(images.batches())
    one_line(raised, tmp_path, "1.png was changed while the images were read")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def bound_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


IRREGULAR: list[tuple[str, Callable[[Path], None], str]] = [
    ("a link to an endless device", lambda path: path.symlink_to("/dev/null"), "is a device, and must be a regular"),
    ("a pipe", pipe, "is a pipe, and must be a regular file"),
    ("a socket", bound_socket, "is a socket, and must be a regular file"),
    ("a broken link", lambda path: path.symlink_to("nowhere"), "is a link that leads nowhere"),
    ("a link to itself", lambda path: path.symlink_to(path.name), "is a link that leads nowhere"),
]


@pytest.mark.parametrize(("make", "says"), [row[1:] for row in IRREGULAR], ids=[row[0] for row in IRREGULAR])
def test_only_regular_files_are_read_in_a_folder(tmp_path: Path, make: Callable[[Path], None], says: str) -> None:
    for index in range(2):
        Image.fromarray(GREY[index, ..., 0]).save(tmp_path / f"{index}.png")
    make(tmp_path / "x.png")
    with pytest.raises(GocError) as raised:
        folder_images(tmp_path, 1, SIZE)
    one_line(raised, tmp_path, f"x.png {says}")


@dataclass(frozen=True)
class File:
    """A bad reference file: its name, what makes it, and what the answer says."""

    name: str
    file: str
    make: Callable[[Path], object]
    says: str

    def __str__(self) -> str:
        return self.name


def npz(**arrays: np.ndarray) -> Callable[[Path], object]:
    return lambda path: np.savez(path, **arrays)


def statistics(**others: np.ndarray) -> Callable[[Path], object]:
    return npz(**{"mu": MU, "sigma": SIGMA} | others)


def member(content: bytes, name: str = "arr_0", cut: int = 0) -> Callable[[Path], object]:
    """An .npz file with one array of this content, without its last bytes."""

    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{name}.npy", content[: len(content) - cut])

    return make


def npy(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def header(shape: str, dtype: str = "|u1", data: int = 192) -> bytes:
    """An .npy file whose header says this shape, whatever it holds."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (118 - len(text) - 1) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + bytes(data)


def twice(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", npy(GREY))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("arr_0.npy", npy(255 - GREY))


def tensors(**others: torch.Tensor) -> Callable[[Path], object]:
    return lambda path: save_file(others, path)


def saved_statistics(**others: torch.Tensor) -> Callable[[Path], object]:
    both = {"mu": torch.from_numpy(MU), "sigma": torch.from_numpy(SIGMA)}
    return tensors(**both | others)


ASYMMETRIC, NEGATIVE = SIGMA.copy(), SIGMA - np.eye(64)
ASYMMETRIC[0, 1] += 1
WANTED = re.escape(", must be uint8 [M, H, W, C] or [M, C, H, W], 0 to 255, with M > 1, H = W, and C = 1 or 3")
NAN, MU_32 = torch.full((5, 64), float("nan")), torch.from_numpy(MU).float()

FILES = [
    File("float images", "x.npz", npz(arr_0=GREY / 255), rf"arr_0 are float64 \[3, 8, 8, 1\]{WANTED}"),
    File("float32 images", "x.npz", npz(arr_0=(GREY / 127.5 - 1).astype(np.float32)), rf"arr_0 are float32 .*{WANTED}"),
    File("16-bit images", "x.npz", npz(arr_0=GREY.astype(np.uint16)), rf"arr_0 are uint16 .*{WANTED}"),
    File("integers", "x.npz", npz(arr_0=GREY.astype(np.int64)), rf"arr_0 are int64 .*{WANTED}"),
    File("bools", "x.npz", npz(arr_0=GREY > 9), rf"arr_0 are bool .*{WANTED}"),
    File("no channels", "x.npz", npz(arr_0=GREY[..., 0]), rf"arr_0 are uint8 \[3, 8, 8\]{WANTED}"),
    File("one image", "x.npz", npz(arr_0=GREY[:1]), rf"arr_0 are uint8 \[1, 8, 8, 1\]{WANTED}"),
    File("no images", "x.npz", npz(arr_0=GREY[:0]), rf"arr_0 are uint8 \[0, 8, 8, 1\]{WANTED}"),
    File("no pixels", "x.npz", npz(arr_0=GREY[:, :0, :0]), rf"arr_0 are uint8 \[3, 0, 0, 1\]{WANTED}"),
    File("four channels", "x.npz", npz(arr_0=np.repeat(GREY, 4, axis=3)), rf"arr_0 are uint8 \[3, 8, 8, 4\]{WANTED}"),
    File("two channels", "x.npz", npz(arr_0=np.zeros((3, 2, 8, 8), np.uint8)), rf"\[3, 2, 8, 8\]{WANTED}"),
    File("not square", "x.npz", npz(arr_0=GREY[:, :7]), rf"arr_0 are uint8 \[3, 7, 8, 1\]{WANTED}"),
    File("either layout", "x.npz", npz(arr_0=np.zeros((4, 3, 3, 3), np.uint8)), "not clear whether channels"),
    File("batch last", "x.npz", npz(arr_0=GREY.transpose(1, 2, 3, 0)), rf"arr_0 are uint8 \[8, 8, 1, 3\]{WANTED}"),
    File("colours for grey", "x.npz", npz(arr_0=COLOUR), "takes images of 1 channel.*these have 3"),
    File("another size", "x.npz", npz(arr_0=GREY[:, :4, :4]), "of images of 4x4 pixels, not 8x8"),
    File("objects", "x.npz", npz(arr_0=np.array([{}, None], object)), "arr_0 holds Python objects"),
    File("strings", "x.npz", npz(arr_0=np.full((3, 8, 8, 1), "x")), f"arr_0 are <U1 .*{WANTED}"),
    File("another name", "x.npz", npz(images=GREY), r"holds neither .* but images uint8 \[3, 8, 8, 1\]$"),
    File("no arrays", "x.npz", npz(), "holds neither .* but nothing$"),
    File("cut off", "x.npz", member(npy(GREY), cut=9), "arr_0 has 183 bytes, uint8 .3, 8, 8, 1. is 192"),
    File("too long", "x.npz", member(npy(GREY) + b"more"), "arr_0 has 196 bytes, uint8 .3, 8, 8, 1. is 192"),
    File("a huge shape", "x.npz", member(header("(1000000000000, 8, 8, 1)")), "has 192 bytes, .* is 64000000000000"),
    File("a negative shape", "x.npz", member(header("(-3, 8, 8, 1)")), "the shape of arr_0 is .-3, 8, 8, 1."),
    File("a shape of bools", "x.npz", member(header("(True, 8, 8, 1)", data=64)), "the shape of arr_0 is .True, 8"),
    File("a shape of words", "x.npz", member(header("('3', 8, 8, 1)")), "damaged, or not an .npz file"),
    File("no header", "x.npz", member(b"hello there"), "damaged, or not an .npz file"),
    File("a later version", "x.npz", member(b"\x93NUMPY\x09\x00" + bytes(99)), "unknown .npy version, 9.0"),
    File("two arrays of one name", "x.npz", twice, "two arrays of one name"),
    File("an .npy file", "x.npy", lambda path: np.save(path, GREY), "must be a .safetensors, .npz or .pkl file"),
    File("an .npy file by the name of an .npz", "x.npz", lambda path: path.write_bytes(npy(GREY)), "damaged, or not"),
    File("complex mu", "x.npz", statistics(mu=MU + 1j), "mu is of the type complex128, must be float32 or float64"),
    File("half mu", "x.npz", statistics(mu=MU.astype(np.float16)), "mu is of the type float16, must be float32"),
    File("bool sigma", "x.npz", statistics(sigma=SIGMA > 0), "sigma is of the type bool, must be float32 or float64"),
    File("words", "x.npz", statistics(mu=np.full(64, "x")), "mu is of the type <U1, must be float32 or float64"),
    File("objects as mu", "x.npz", statistics(mu=np.array([None] * 64)), "mu holds Python objects"),
    File("a bomb of a mu", "x.npz", member(npy(np.zeros(10**7)), "mu"), r"mu is \[10000000\], \[64\] on the features"),
    File("infinite sigma", "x.npz", statistics(sigma=SIGMA * np.inf), "sigma holds values that are no finite numbers"),
    File("asymmetric sigma", "x.npz", statistics(sigma=ASYMMETRIC), "sigma is not symmetric, so it is no covariance"),
    File("negative sigma", "x.npz", statistics(sigma=NEGATIVE), "sigma has negative eigenvalues"),
    File("transposed mu", "x.npz", statistics(mu=MU[:, None]), r"mu is \[64, 1\], \[64\] on the features"),
    File("mu alone", "x.npz", npz(mu=MU), r"neither statistics \(mu, sigma\) nor images \(arr_0\), but mu float64"),
    File("flat sigma", "x.npz", statistics(sigma=MU), r"sigma is \[64\], \[64, 64\] on the features of digits"),
    File("a pipe", "x.npz", pipe, "must be a regular file, not a pipe"),
    File("a device", "x.npz", lambda path: path.symlink_to("/dev/null"), "must be a regular file, not a device"),
    File("a pipe of tensors", "x.safetensors", pipe, "must be a regular file, not a pipe"),
    File("a broken link", "x.npz", lambda path: path.symlink_to("nowhere"), "no such file or folder"),
    File("garbage tensors", "x.safetensors", lambda path: path.write_bytes(b"?" * 99), "damaged, or not a reference"),
    File("an empty file", "x.safetensors", lambda path: path.touch(), "damaged, or not a reference"),
    File("NaN features", "x.safetensors", tensors(features=NAN), "features hold values that are no finite numbers"),
    File("and statistics", "x.safetensors", saved_statistics(features=NAN), "features hold values that are no finite"),
    File("integer features", "x.safetensors", tensors(features=torch.ones(5, 64).int()), "features is of the type I32"),
    File("other features", "x.safetensors", tensors(features=torch.ones(5, 9)), r"features are \[5, 9\]"),
    File("and other features", "x.safetensors", saved_statistics(features=torch.zeros(5, 3)), r"features are \[5, 3\]"),
    File("flat features", "x.safetensors", tensors(features=MU_32), r"must be \[images, D\], not \[64\]"),
    File("others", "x.safetensors", tensors(weight=MU_32), r"neither statistics \(mu, sigma\) nor features of real"),
    File("one image's", "x.safetensors", tensors(features=torch.ones(1, 64)), r"features must be \[images, D\]"),
    File("half tensors", "x.safetensors", saved_statistics(mu=torch.ones(64).half()), "mu is of the type F16"),
    File("complex", "x.safetensors", saved_statistics(mu=torch.ones(64) * 1j), "mu is of the type C64"),
    File("NaN tensors", "x.safetensors", saved_statistics(mu=NAN[0]), "mu holds values that are no finite numbers"),
    File("negative", "x.safetensors", saved_statistics(sigma=-torch.eye(64)), "sigma has negative eigenvalues"),
    File(
        "a later format", "x.safetensors",
        lambda path: save_file({"features": torch.ones(5, 64)}, path, metadata={"format": "goc reference 9"}),
        "is of the format 'goc reference 9', must be 'goc reference 1'",
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return load_extractor("digits", None, torch.device("cpu"))


@pytest.mark.parametrize("bad", FILES, ids=str)
def test_a_bad_reference_file_is_one_line(tmp_path: Path, extractor: Extractor, bad: File) -> None:
    path = tmp_path / bad.file
    bad.make(path)
    with pytest.raises(GocError) as raised:
        load_reference(path, extractor, SIZE, need_features=True, cache_dir=tmp_path / "cache")
    assert "\n" not in str(raised.value)
    assert re.search(bad.says, str(raised.value)), str(raised.value)
    assert not list((tmp_path / "cache").glob("*.safetensors"))


def test_a_plan_is_only_read_from_a_regular_file() -> None:
    from goc.pipelines.plan_file import PlanError, load_plan

    with pytest.raises(PlanError, match="must be a regular file, not a device"):
        load_plan("/dev/null")
