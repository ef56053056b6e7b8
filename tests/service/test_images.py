"""Every kind of image that photographs come in, and bytes that are none."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from cape.geometry import Crop
from cape.v1 import image_pb2
from service.errors import InvalidFieldError
from service.images.reading import ImageLimits, open_image, read_image
from tests.service.messages import encoded, header_png, photograph, raw

LIMITS = ImageLimits(max_bytes=2**20, max_pixels=1_000_000)


def read(data: bytes, limits: ImageLimits = LIMITS) -> np.ndarray:
    return read_image(image_pb2.Image(encoded=data), limits)


def refusal(image: image_pb2.Image | bytes, limits: ImageLimits = LIMITS) -> tuple[str, str]:
    """Field and description of the error that reading an image ends in."""
    message = image if isinstance(image, image_pb2.Image) else image_pb2.Image(encoded=image)
    with pytest.raises(InvalidFieldError) as caught:
        read_image(message, limits)
    return caught.value.violations[0]


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_keep_every_pixel(form: str) -> None:
    assert np.array_equal(read(encoded(photograph(), form)), photograph())


@pytest.mark.parametrize(("form", "options"), [("JPEG", {"quality": 95}), ("WEBP", {"quality": 95})])
def test_lossy_formats_come_close(form: str, options: dict[str, int]) -> None:
    difference = read(encoded(photograph(), form, **options)).astype(int) - photograph()
    assert np.abs(difference).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_exif_orientation_is_applied(orientation: int, form: str) -> None:
    upright = photograph(12, 8)
    # What a camera stores: the picture that its orientation's transformation turns upright.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(read(encoded(np.ascontiguousarray(stored), form, exif=exif)), upright)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_jpeg_with_damaged_exif_data_is_taken_as_it_is_stored() -> None:
    data = encoded(photograph(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read(data).shape == (90, 120, 3)


def test_grey_becomes_three_equal_channels() -> None:
    grey = photograph()[..., 0]
    assert np.array_equal(read(encoded(grey)), np.repeat(grey[..., None], 3, axis=2))


def test_black_and_white_becomes_0_and_255() -> None:
    bits = photograph()[..., 0] > 127
    assert np.array_equal(read(encoded(Image.fromarray(bits)))[..., 1], bits * np.uint8(255))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(form: str) -> None:
    levels = np.linspace(0, 65_535, 256 * 4).astype(np.uint16).reshape(32, 32)
    expected = np.round(levels / 257)
    assert np.array_equal(read(encoded(levels, form))[..., 0], expected)


def test_grey_with_alpha_lies_on_white() -> None:
    grey, alpha = np.full((4, 4), 100, np.uint8), np.full((4, 4), 255, np.uint8)
    alpha[0] = 0
    pixels = read(encoded(Image.merge("LA", (Image.fromarray(grey), Image.fromarray(alpha)))))
    assert (pixels[0] == 255).all()
    assert (pixels[1:] == 100).all()


def test_half_transparent_colours_mix_with_white() -> None:
    pixels = read(encoded(Image.new("RGBA", (4, 4), (200, 0, 100, 128))))
    assert np.allclose(pixels[0, 0], [227, 127, 177], atol=1)


def test_a_transparent_palette_entry_is_white() -> None:
    picture = Image.new("P", (4, 4), 0)
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putpixel((0, 0), 1)
    pixels = read(encoded(picture, transparency=0))
    assert pixels[0, 0].tolist() == [40, 50, 60]
    assert pixels[1, 1].tolist() == [255, 255, 255]


def test_cmyk_jpegs_are_not_inverted() -> None:
    picture = Image.fromarray(photograph()).convert("CMYK")
    difference = read(encoded(picture, "JPEG", quality=95)).astype(int) - np.asarray(picture.convert("RGB"))
    assert np.abs(difference).mean() < 3


def test_adobe_ycck_jpegs_are_converted() -> None:
    cmyk = np.asarray(Image.fromarray(photograph()).convert("CMYK"))
    # Adobe stores CMYK inverted, then turns 255 − C, M, Y of that, which is the ink again, into YCbCr. Pillow
    # inverts what it writes and knows no YCCK: hence planes that its inversion makes right, and the marker by hand.
    ycc = np.asarray(Image.fromarray(cmyk[..., :3].copy()).convert("YCbCr"))
    planes = np.concatenate([255 - ycc, cmyk[..., 3:]], axis=2)
    data = bytearray(encoded(Image.frombytes("CMYK", (120, 90), planes.tobytes()), "JPEG", quality=95))
    data[data.index(b"Adobe") + 11] = 2
    expected = np.asarray(Image.frombytes("CMYK", (120, 90), cmyk.tobytes()).convert("RGB")).astype(int)
    assert np.abs(read(bytes(data)).astype(int) - expected).mean() < 4


def test_only_the_first_frame_counts() -> None:
    frames = [Image.fromarray(photograph(seed=seed)) for seed in range(3)]
    data = encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    assert np.array_equal(read(data), photograph(seed=0))


def test_raw_pixels_are_taken_as_they_are() -> None:
    assert np.array_equal(read_image(raw(photograph()), LIMITS), photograph())


@pytest.mark.parametrize(
    ("height", "width", "size", "field"),
    [(0, 4, 48, "raw.height"), (4, -1, 48, "raw.width"), (4, 4, 47, "raw.rgb"), (4, 4, 0, "raw.rgb")],
)
def test_raw_pixels_must_fit_their_size(height: int, width: int, size: int, field: str) -> None:
    pixels = image_pb2.RawImage(height=height, width=width, rgb=b"\0" * size)
    assert refusal(image_pb2.Image(raw=pixels))[0] == field


def test_a_raw_image_may_not_have_too_many_pixels() -> None:
    pixels = image_pb2.RawImage(height=2**31 - 1, width=2**31 - 1, rgb=b"\0")
    assert refusal(image_pb2.Image(raw=pixels))[0] == "raw"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_files_are_refused(form: str, share: float) -> None:
    data = encoded(photograph(), form)
    assert refusal(data[: int(len(data) * share)])[0] == "encoded"


@pytest.mark.parametrize("data", [b"", b"\0", b"hello, world\n" * 9, b"\xff\xd8\xff", b"<svg/>", b"%PDF-1.7"], ids=repr)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    assert refusal(data)[0] == "encoded"


def test_formats_that_are_not_offered_are_refused() -> None:
    assert "JPEG, PNG, WebP, BMP or TIFF" in refusal(encoded(photograph(), "GIF"))[1]


def test_no_image_at_all_is_refused() -> None:
    assert refusal(image_pb2.Image())[0] == ""


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    field, description = refusal(header_png(60_000, 60_000), ImageLimits(2**20, 50_000_000))
    assert field == "encoded"
    assert "60,000 × 60,000" in description


def test_floating_point_pixels_are_refused() -> None:
    assert "32-bit" in refusal(encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"))[1]


def test_too_many_bytes_are_refused() -> None:
    assert "at most 10" in refusal(encoded(photograph()), ImageLimits(10, 10**6))[1]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_damaged_files_end_in_pixels_or_in_an_invalid_field(form: str) -> None:
    data = encoded(photograph(), form)
    random = np.random.default_rng(5)
    for _ in range(150):
        damaged = bytearray(data)
        for position in random.integers(0, min(len(data), 400), 4):
            damaged[position] = random.integers(256)
        try:
            assert read(bytes(damaged)).shape[2] == 3
        except InvalidFieldError as error:
            assert error.violations[0][0] == "encoded"


LARGE = ImageLimits(max_bytes=2**24, max_pixels=20_000_000)


def disc_photograph(width: int, height: int, x: float, y: float, radius: float) -> np.ndarray:
    """A soft white disc on black around (x, y)."""
    rows, columns = np.mgrid[:height, :width]
    distance = np.hypot(columns - x, rows - y)
    grey = (255 * np.clip(radius - distance, 0, 1)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def centre(pixels: np.ndarray) -> np.ndarray:
    """Centre of gravity of the brightness, (x, y)."""
    rows, columns = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    weight = pixels[..., 0].astype(float)
    return np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("side", [140.0, 280.0, 600.0])
def test_a_reduced_jpeg_shows_what_it_shows_in_full_at_the_same_place(orientation: int, side: float) -> None:
    # Neither side is a multiple of 8: the last block of a stored row reaches beyond the image.
    stored = disc_photograph(1237, 1003, 640.3, 377.8, 45)
    data = encoded(stored, "JPEG", quality=95, exif=_exif(orientation))
    message = image_pb2.Image(encoded=data)
    full = read_image(message, LARGE)
    opened = open_image(message, LARGE)
    assert (opened.height, opened.width) == full.shape[:2]
    x, y = centre(full)
    crop = Crop(x - side / 2 - 11.3, y - side / 2 + 7.9, side, 64)
    photograph = opened.decode([crop])
    assert photograph.reduction == {140.0: 2, 280.0: 4, 600.0: 8}[side]
    assert photograph.pixels.shape[0] == -(-full.shape[0] // photograph.reduction)
    # In pixels of the crop. A shift by half a reduced pixel, the mistake that is easily made, would be 0.4; bilinear
    # sampling of the full image, which skips pixels, is off by up to 0.12 here.
    expected = crop.to_crop([x, y]) * crop.size
    np.testing.assert_allclose(centre(photograph.extract(crop)), expected, atol=0.03)


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_only_a_jpeg_all_of_whose_crops_are_large_is_reduced() -> None:
    data = encoded(photograph(1200, 900), "JPEG")
    small, large = Crop(0, 0, 100, 64), Crop(0, 0, 600, 64)
    for crops, reduction in (([large], 8), ([large, small], 1), ([], 1)):
        assert open_image(image_pb2.Image(encoded=data), LARGE).decode(crops).reduction == reduction
    png = image_pb2.Image(encoded=encoded(photograph(1200, 900)))
    assert open_image(png, LARGE).decode([large]).reduction == 1


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (517, 803), (1024, 768)])
def test_a_jpegs_pixels_are_those_that_pillow_decodes(
    height: int, width: int, progressive: bool, subsampling: str
) -> None:
    options = {"quality": 85, "progressive": progressive, "subsampling": subsampling}
    data = encoded(photograph(width, height), "JPEG", **options)
    for reduction in (1, 2, 4, 8):
        if min(height, width) < reduction:
            continue
        theirs = Image.open(io.BytesIO(data))
        theirs.draft(None, (width // reduction, height // reduction))
        ours = open_image(image_pb2.Image(encoded=data), LARGE).decode([Crop(0, 0, 8.0 * reduction, 8)])
        assert ours.reduction == reduction
        np.testing.assert_array_equal(ours.pixels, np.asarray(theirs))


def test_a_jpeg_with_stray_bytes_between_its_segments_is_read_as_pillow_reads_it() -> None:
    data = encoded(photograph(), "JPEG")
    at = data.index(b"\xff\xdb")  # a quantisation table; decoders skip to it, and warn
    np.testing.assert_array_equal(read(data[:at] + b"\0\0\0" + data[at:]), read(data))


def test_a_jpeg_that_says_two_sizes_is_not_decoded_beyond_its_limits() -> None:
    # The second frame header claims 60,000 × 60,000 pixels, where the first, which limits are checked on, is small.
    data = encoded(photograph(), "JPEG")
    at = data.index(b"\xff\xc0")
    length = int.from_bytes(data[at + 2 : at + 4])
    header = data[at : at + 2 + length]
    claim = header[:5] + (60_000).to_bytes(2) * 2 + header[9:]
    refusal(data[: at + len(header)] + claim + data[at + len(header) :])
    refusal(data[:at] + claim + data[at:])


def test_a_truncated_jpeg_is_refused_when_it_is_decoded() -> None:
    data = encoded(photograph(1200, 900), "JPEG")
    opened = open_image(image_pb2.Image(encoded=data[: len(data) // 2]), LARGE)
    with pytest.raises(InvalidFieldError, match="truncated or damaged"):
        opened.decode([Crop(0, 0, 600, 64)])


def test_a_cmyk_jpeg_is_reduced_too() -> None:
    picture = Image.fromarray(photograph(1200, 900)).convert("CMYK")
    crop = Crop(100, 100, 600, 64)
    opened = open_image(image_pb2.Image(encoded=encoded(picture, "JPEG", quality=95)), LARGE).decode([crop])
    assert opened.reduction == 8
    expected = crop.extract(np.asarray(picture.convert("RGB")))
    assert np.abs(opened.extract(crop).astype(int) - expected).mean() < 4
