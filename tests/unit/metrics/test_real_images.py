"""Pixels of reference images: what is read, and that it is read right."""

import hashlib
import logging
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import nhwc, png, saved
from PIL import Image
from torch import Tensor

from goc.metrics.archive import archived_images, open_archive
from goc.metrics.features import Extractor, load_extractor
from goc.metrics.real_images import PIXEL_RULE, folder_images, folder_sha256
from goc.metrics.reference import load_reference
from goc.sampling.images import write_npz, write_pngs
from goc.system.errors import GocError
from goc.system.files import content_key, file_sha256

GREY = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
COLOUR = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def pictures(images: Tensor) -> list[Image.Image]:
    return [Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image) for image in nhwc(images).copy()]


def fill(folder: Path, contents: list[bytes], suffix: str) -> Path:
    folder.mkdir(exist_ok=True)
    for index, content in enumerate(contents):
        (folder / f"{index:04}{suffix}").write_bytes(content)
    return folder


def read(folder: Path, channels: int) -> Tensor:
    return torch.cat(list(folder_images(folder, channels, 8).batches()))


def sixteen(images: Tensor, factor: int) -> list[bytes]:
    return [png(image.astype(np.uint16) * factor) for image in nhwc(images)]


def with_alpha(images: Tensor) -> list[bytes]:
    mode = "LA" if images.shape[1] == 1 else "RGBA"
    return [saved(picture.convert(mode), "PNG") for picture in pictures(images)]


def with_16_bit_alpha(images: Tensor) -> list[bytes]:
    opaque = np.full((8, 8, 1), 65535, np.uint16)
    return [png(np.concatenate([image.astype(np.uint16) * 257, opaque], axis=-1)) for image in nhwc(images)]


def by(format: str, **options: object) -> Callable[[Tensor], list[bytes]]:
    return lambda images: [saved(picture, format, **options) for picture in pictures(images)]


def palette(images: Tensor) -> list[bytes]:
    return [saved(picture.quantize(256), "PNG") for picture in pictures(images)]


def ppm(images: Tensor) -> list[bytes]:
    """Of 16 bits; the standard scales them by the largest value."""
    kind = b"P5" if images.shape[1] == 1 else b"P6"
    return [kind + b" 8 8 65535\n" + (i.astype(">u2") * 257).astype(">u2").tobytes() for i in nhwc(images)]


@pytest.mark.parametrize("images", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize(
    ("suffix", "write"),
    [
        (".png", by("PNG")),
        (".PNG", by("PNG")),
        (".png", lambda images: sixteen(images, 257)),
        (".png", lambda images: sixteen(images, 256)),
        (".png", with_alpha),
        (".png", with_16_bit_alpha),
        (".png", palette),
        (".webp", by("WEBP", lossless=True)),
        (".bmp", by("BMP")),
        (".tif", by("TIFF")),
        (".tiff", by("TIFF", compression="tiff_lzw")),
        (".ppm", by("PPM")),
        (".pnm", ppm),
        (".jp2", by("JPEG2000")),
        (".tga", by("TGA")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_same_pixels_are_read_from_every_lossless_form(
    tmp_path: Path, images: Tensor, suffix: str, write: Callable[[Tensor], list[bytes]]
) -> None:
    folder = fill(tmp_path / "images", write(images), suffix)
    assert read(folder, images.shape[1]).equal(images)


def test_16_bit_tiffs_one_bit_images_and_gifs_are_read(tmp_path: Path) -> None:
    wide = [Image.fromarray(image[..., 0].astype(np.uint16) * 257) for image in nhwc(GREY)]
    assert read(fill(tmp_path / "wide", [saved(image, "TIFF") for image in wide], ".tif"), 1).equal(GREY)
    dots = [picture.convert("1", dither=Image.Dither.NONE) for picture in pictures(GREY)]
    white = 255 * (GREY >= 128)
    assert read(fill(tmp_path / "dots", [saved(image, "PNG") for image in dots], ".png"), 1).equal(white.byte())
    assert read(fill(tmp_path / "gifs", [saved(image, "GIF") for image in dots], ".gif"), 1).equal(white.byte())


@pytest.mark.parametrize("largest", [65535, 40000, 4095, 1023, 256])
@pytest.mark.parametrize("kind", ["P2", "P3", "P5", "P6"])
def test_wide_netpbm_images_are_read_by_the_higher_byte(tmp_path: Path, kind: str, largest: int) -> None:
    """In colour as in grey, plain or binary, whatever their largest value."""
    channels = 1 if kind in ("P2", "P5") else 3
    values = np.random.default_rng(0).integers(0, largest + 1, (2, 8, 8, channels)).astype(np.uint16)
    plain = [" ".join(map(str, value.ravel())).encode() for value in values]
    bodies = plain if kind in ("P2", "P3") else [value.astype(">u2").tobytes() for value in values]
    folder = fill(tmp_path / "images", [f"{kind} 8 8 {largest}\n".encode() + body for body in bodies], ".pnm")
    expected = np.rint(values / largest * 65535).astype(int) >> 8
    assert np.array_equal(nhwc(read(folder, channels)), expected)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_pngs_are_read_by_the_higher_byte(tmp_path: Path, channels: int) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (2, 8, 8, channels)).astype(np.uint16)
    colours = channels - 1 + channels % 2
    values[..., colours:] = 65535
    folder = fill(tmp_path / "images", [png(value) for value in values], ".png")
    assert np.array_equal(nhwc(read(folder, colours)), values[..., :colours] >> 8)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_tiffs_are_read_by_the_higher_byte_or_refused(tmp_path: Path, channels: int, order: str) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (2, 8, 8, channels)).astype(np.uint16)
    values[..., 3:] = 65535
    colours = min(channels, 3)
    folder = fill(tmp_path / "images", [tiff(value, order) for value in values], ".tif")
    assert np.array_equal(nhwc(read(folder, colours)), values[..., :colours] >> 8)
    apart = fill(tmp_path / "apart", [tiff(value, order, apart=True) for value in values], ".tif")
    with pytest.raises(GocError, match=r"0000\.tif is a TIFF of more than 8 bits that keeps each colour apart"):
        read(apart, colours)


def tiff(pixels: np.ndarray, order: str, apart: bool = False) -> bytes:
    """A TIFF of 16 bits, uint16 [H, W, C] in a byte order; apart: one plane after the other."""
    height, width, channels = pixels.shape
    planes = [pixels[..., i] for i in range(channels)] if apart else [pixels]
    strips = [plane.astype(f"{order}u2").tobytes() for plane in planes]
    short, long = (3, "H"), (4, "I")
    tags = {256: (short, [width]), 257: (short, [height]), 258: (short, [16] * channels), 259: (short, [1]),
            262: (short, [1 if channels == 1 else 2]), 273: (long, [0] * len(strips)), 277: (short, [channels]),
            278: (short, [height]), 279: (long, list(map(len, strips))), 284: (short, [2 if apart else 1])}  # fmt: skip
    if channels == 4:
        tags[338] = (short, [2])

    def directory() -> tuple[bytes, bytes]:
        entries, others, place = b"", b"", 8 + 2 + 12 * len(tags) + 4
        for tag in sorted(tags):
            (kind, form), values = tags[tag]
            value = struct.pack(f"{order}{len(values)}{form}", *values)
            if len(value) > 4:
                others, value = others + value, struct.pack(f"{order}I", place + len(others))
            entries += struct.pack(f"{order}HHI", tag, kind, len(values)) + value.ljust(4, b"\0")
        return struct.pack(f"{order}H", len(tags)) + entries + bytes(4), others

    start = 8 + sum(map(len, directory()))
    tags[273] = (long, [start + sum(map(len, strips[:i])) for i in range(len(strips))])
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    return head + b"".join(directory()) + b"".join(strips)


def test_a_folder_that_was_read_otherwise_before_has_another_hash(tmp_path: Path) -> None:
    def by_names(folder: Path) -> str:
        names = hashlib.sha256()
        for path in sorted(folder.iterdir()):
            names.update(f"{path.name}\0{file_sha256(path)}\n".encode())
        return names.hexdigest()

    turned = Image.Exif()
    turned[0x0112] = 6
    otherwise = {"wide": png(np.full((8, 8, 3), 40000, np.uint16)), "grey": png(np.full((8, 8, 1), 40000, np.uint16)),
                 "alpha": with_alpha(COLOUR)[0], "ppm": ppm(COLOUR)[0],
                 "turned": saved(pictures(COLOUR)[0], "PNG", exif=turned)}  # fmt: skip
    as_ever = {"png": by("PNG")(COLOUR)[0], "jpg": by("JPEG")(COLOUR)[0], "palette": palette(COLOUR)[0],
               "netpbm": by("PPM")(COLOUR)[0], "damaged": b"none"}  # fmt: skip
    for name, content in (otherwise | as_ever).items():
        folder = fill(tmp_path / name, [content, by("PNG")(COLOUR)[1]], ".pnm" if name in ("ppm", "netpbm") else ".png")
        assert (folder_sha256(folder) == by_names(folder)) == (name in as_ever), name
    folder = fill(tmp_path / "16", sixteen(GREY, 257), ".png")
    assert folder_images(folder, 1, 8).sha256 == folder_sha256(folder) != by_names(folder)


def test_grey_images_are_the_same_in_three_channels_and_grey_colours_in_one(tmp_path: Path) -> None:
    folder = fill(tmp_path / "grey", by("PNG")(GREY), ".png")
    assert read(folder, 3).equal(GREY.expand(-1, 3, -1, -1))
    folder = fill(tmp_path / "colour", by("PNG")(GREY.expand(-1, 3, -1, -1)), ".png")
    assert read(folder, 1).equal(GREY)


def test_a_folders_hash_is_that_of_its_sorted_names_and_contents(tmp_path: Path) -> None:
    """As in every release so far: results know their reference by it."""
    folder = fill(tmp_path / "images", by("PNG")(GREY), ".png")
    fill(folder / "b", by("JPEG")(GREY), ".jpg")
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(b"no image")
    lines = (f"{p.relative_to(folder).as_posix()}\0{file_sha256(p)}\n" for p in sorted(folder.rglob("[!.]*.*g")))
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert folder_sha256(folder) == folder_images(folder, 1, 8).sha256 == expected
    (folder / "0002.png").write_bytes(by("PNG")(GREY)[0])
    assert folder_sha256(folder) != expected


def test_links_to_images_count_and_links_to_folders_are_named_but_not_followed(tmp_path: Path) -> None:
    folder = fill(tmp_path / "images", by("PNG")(GREY[:2]), ".png")
    outside = fill(tmp_path / "outside", by("PNG")(GREY[2:]), ".png")
    (folder / "z.png").symlink_to(outside / "0000.png")
    (folder / "loop").symlink_to(folder)
    (folder / "elsewhere.png").symlink_to(outside)
    images = folder_images(folder, 1, 8)
    assert images.count == 3
    assert torch.cat(list(images.batches())).equal(GREY[:3])
    assert images.notes == ("not used: 2 that are no images by their suffix (elsewhere.png, loop)",)


def test_what_is_not_used_is_named_and_copies_are_counted(tmp_path: Path) -> None:
    folder = fill(tmp_path / "images", by("PNG")(GREY), ".png")
    (folder / "A.png").write_bytes((folder / "0000.png").read_bytes())
    (folder / "a.png").hardlink_to(folder / "0000.png")
    for name in ("a.psd", "b.npy", "c", "d.exr", ".DS_Store", "._0000.png"):
        (folder / name).write_bytes(b"?")
    (folder / ".thumbnails").mkdir()
    images = folder_images(folder, 1, 8)
    assert images.count == 7
    assert images.notes == (
        "not used: 4 that are no images by their suffix (a.psd, b.npy, c, ...) and 3 hidden",
        "2 of its images are copies of others, and count as often as they are there",
    )


def test_other_colours_than_srgb_are_named(tmp_path: Path) -> None:
    contents = by("PNG", icc_profile=b"Display P3")(COLOUR[:1]) + by("PNG", icc_profile=b"sRGB IEC61966")(COLOUR[1:])
    images = folder_images(fill(tmp_path / "images", contents, ".png"), 3, 8)
    assert images.notes == ("1 of its images have a colour profile or gamma other than sRGB, which is not applied",)


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return load_extractor("digits", None, torch.device("cpu"))


def test_the_number_of_images_is_always_said(
    tmp_path: Path, extractor: Extractor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    folder, archive = fill(tmp_path / "images", by("PNG")(GREY), ".png"), tmp_path / "images.npz"
    np.savez(archive, nhwc(GREY))
    for _ in range(2):  # extracted, and then kept
        for path in (folder, archive):
            caplog.clear()
            load_reference(path, extractor, 8, need_features=True, cache_dir=tmp_path / "cache")
            (record,) = caplog.records
            assert record.getMessage() == f"model.reference={path}: 5 images of 8x8 pixels used"
            assert record.levelname == "INFO"
    (folder / "notes.psd").write_text("not used")
    caplog.clear()
    load_reference(folder, extractor, 8, need_features=True, cache_dir=tmp_path / "cache")
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_features_kept_of_pixels_that_were_read_otherwise_are_not_used(tmp_path: Path, extractor: Extractor) -> None:
    """A release that clipped 16 bits has kept features of clipped images, by the same hash of the folder."""
    folder = fill(tmp_path / "images", by("PNG")(GREY), ".png")
    key = {"images": folder_sha256(folder), "extractor": "digits", "weights": extractor.weights_sha256}
    load_reference(folder, extractor, 8, need_features=True, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache" / f"reference-{content_key(key)}.safetensors").exists()
    assert (tmp_path / "cache" / f"reference-{content_key(key | {'pixels': PIXEL_RULE})}.safetensors").exists()


def stream(path: Path) -> Tensor:
    with open_archive(path) as archive:
        images = archived_images(path, "", archive)
    return torch.cat(list(images.batches()))


@pytest.mark.parametrize("images", [GREY, COLOUR], ids=["grey", "colour"])
def test_arrays_of_every_unambiguous_layout_are_read(tmp_path: Path, images: Tensor) -> None:
    path = tmp_path / "images.npz"
    arrays = (nhwc(images), images.numpy(), np.asfortranarray(nhwc(images)), np.asfortranarray(images.numpy()))
    for array in arrays:
        for save in (np.savez, np.savez_compressed):
            save(path, array)
            assert stream(path).equal(images)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_arrays_of_every_npy_version_are_read(tmp_path: Path, version: tuple[int, int]) -> None:
    path = tmp_path / "images.npz"
    with zipfile.ZipFile(path, "w") as archive, archive.open("arr_0.npy", "w") as member:
        np.lib.format.write_array(member, nhwc(COLOUR), version=version)
    assert stream(path).equal(COLOUR)


@pytest.mark.parametrize("images", [GREY, COLOUR], ids=["grey", "colour"])
def test_what_this_project_saves_is_read_back(tmp_path: Path, images: Tensor) -> None:
    write_npz(iter(images.split(2)), len(images), tmp_path / "images.npz")
    write_pngs(iter(images.split(2)), tmp_path / "images")
    assert stream(tmp_path / "images.npz").equal(images)
    assert read(tmp_path / "images", images.shape[1]).equal(images)


def test_an_array_is_read_in_batches(tmp_path: Path) -> None:
    images = GREY.repeat(30, 1, 1, 1)
    np.savez(tmp_path / "images.npz", nhwc(images))
    with open_archive(tmp_path / "images.npz") as archive:
        archived = archived_images(tmp_path / "images.npz", "", archive)
    assert [len(batch) for batch in archived.batches()] == [64, 64, 22]
    assert (archived.count, archived.size) == (150, 8)
