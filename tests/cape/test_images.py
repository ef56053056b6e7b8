"""One reader of images: clients, data sets and the service see the same pixels of every file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from cape import images
from cape.images import ImageError, ImageSize, image_size, read_image, turn_points
from cape.v1 import image_pb2
from service.images.reading import ImageLimits
from service.images.reading import read_image as read_as_service

CORPUS = Path(__file__).parents[1] / "fuzz" / "corpus" / "image"

LIMITS = ImageLimits(max_bytes=2**22, max_pixels=1_000_000)


def picture() -> Image.Image:
    """48 × 32 smooth pixels."""
    y, x = np.mgrid[0:32, 0:48]
    return Image.fromarray(np.stack((x * 5, y * 7, 255 - x * 3), axis=-1).astype(np.uint8))


def content(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def exif(orientation: int) -> Image.Exif:
    data = Image.Exif()
    data[0x0112] = orientation
    return data


def files() -> dict[str, bytes]:
    alpha = picture().copy()
    alpha.putalpha(Image.linear_gradient("L").resize(alpha.size))
    levels = Image.fromarray(np.linspace(0, 65_535, 32 * 48).astype(np.uint16).reshape(32, 48))
    profile = b"\0" * 128  # not applied by anybody here: pixels are taken as sRGB
    found = {
        "jpeg": content(picture(), "JPEG"),
        "progressive": content(picture(), "JPEG", progressive=True),
        "grey jpeg": content(picture().convert("L"), "JPEG"),
        "cmyk": content(picture().convert("CMYK"), "JPEG"),
        "icc": content(picture(), "JPEG", icc_profile=profile),
        "mpo": content(picture(), "MPO", save_all=True, append_images=[picture()]),
        "png": content(picture(), "PNG"),
        "16 bit grey": content(levels, "PNG"),
        "16 bit tiff": content(levels, "TIFF"),
        "alpha": content(alpha, "PNG"),
        "grey alpha": content(alpha.convert("LA"), "PNG"),
        "palette": content(picture().quantize(16), "PNG"),
        "transparent palette": content(picture().quantize(16), "PNG", transparency=0),
        "1 bit": content(picture().convert("1"), "PNG"),
        "webp": content(alpha, "WEBP"),
        "bmp": content(picture(), "BMP"),
        "tiff": content(picture(), "TIFF"),
    }
    for orientation in range(1, 9):
        found[f"jpeg turned {orientation}"] = content(picture(), "JPEG", exif=exif(orientation))
        found[f"png turned {orientation}"] = content(alpha, "PNG", exif=exif(orientation))
    for path in CORPUS.iterdir():
        if path.name != "bomb.png":
            found[path.name] = path.read_bytes()
    return found


@pytest.mark.parametrize("name", files())
def test_a_data_set_sees_the_pixels_that_the_service_sees(name: str, tmp_path: Path) -> None:
    data = files()[name]
    pixels = read_image(data)
    np.testing.assert_array_equal(pixels, read_as_service(image_pb2.Image(encoded=data), LIMITS))
    (tmp_path / "file").write_bytes(data)
    np.testing.assert_array_equal(read_image(tmp_path / "file"), pixels)
    size = image_size(data)
    assert (size.height, size.width, 3) == pixels.shape


@pytest.mark.parametrize("orientation", range(1, 9))
def test_points_of_the_stored_image_turn_with_it(orientation: int) -> None:
    stored = np.zeros((20, 30, 3), np.uint8)
    stored[4:6, 24:26] = 255
    data = content(Image.fromarray(stored), "PNG", exif=exif(orientation))
    x, y = turn_points(np.array([[25.0, 5.0]], np.float32), image_size(data))[0]
    row, column = np.argwhere(read_image(data)[..., 0] > 128).mean(0) + 0.5
    assert (x, y) == (column, row)


def test_a_jpeg_that_was_cut_short_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(content(picture(), "JPEG")[:-30])
    with pytest.raises(ImageError, match=r"cut\.jpg: truncated or damaged image"):
        read_image(tmp_path / "cut.jpg")
    assert image_size(tmp_path / "cut.jpg") == ImageSize(48, 32)


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"version https://git-lfs.github.com/spec/v1\nsize 3\n", "a git-lfs pointer"),
        (b"<html></html>", "not a JPEG, PNG, WebP, BMP or TIFF image"),
        (content(picture(), "GIF"), "not a JPEG, PNG, WebP, BMP or TIFF image"),
        (b"", "not a JPEG, PNG, WebP, BMP or TIFF image"),
    ],
)
def test_what_is_no_image_is_named(data: bytes, cause: str) -> None:
    with pytest.raises(ImageError, match=cause):
        read_image(data)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"absent\.jpg: No such file"):
        read_image(tmp_path / "absent.jpg")


@pytest.mark.parametrize("form", ["HEIF", "AVIF"])
def test_heic_and_avif_are_read_with_their_extra_and_refused_by_name_without(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="extra heif is not installed")
    pillow_heif.register_heif_opener()
    if form == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    data = content(picture(), form)
    difference = read_image(data).astype(int) - np.asarray(picture())
    assert np.abs(difference).mean() < 6
    monkeypatch.setattr(images, "readable_formats", lambda: images.FORMATS)
    name = {"HEIF": "HEIC", "AVIF": "AVIF"}[form]
    with pytest.raises(ImageError, match=rf"a {name} image, which is read .* 'capeserve\[heif\]'"):
        read_image(data)
