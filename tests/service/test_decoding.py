"""Images that are small to send and large or slow to decode: refused before the work, or bounded in time and memory."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from cape.v1 import image_pb2
from service.errors import InvalidFieldError, QueueFullError
from service.images.decoding import DecodeMemory, DecodePool
from service.images.reading import ImageLimits, open_image, read_image
from tests.service.messages import encoded, photograph
from tests.service.numpy_engine import until

LIMITS = ImageLimits(2**24, 50_000_000)


def progressive(scans: int, side: int = 64) -> bytes:
    """A valid progressive JPEG in which scans repeat the end-of-band runs of one component."""

    def segment(marker: int, data: bytes) -> bytes:
        return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data

    blocks = (side // 8) ** 2
    run = ("0" + "1" * 14) * -(-blocks // 32767)
    run += "1" * (-len(run) % 8)
    data = int(run, 2).to_bytes(len(run) // 8, "big").replace(b"\xff", b"\xff\x00")
    return b"".join(
        (
            b"\xff\xd8",
            segment(0xDB, b"\0" + bytes([1] * 64)),
            segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\x01\x11\x00"),
            segment(0xC4, b"\x00" + bytes([1] + [0] * 15) + b"\x00"),
            segment(0xC4, b"\x10" + bytes([1] + [0] * 15) + b"\xe0"),
            segment(0xDA, b"\x01\x01\x00\x00\x00\x00") + bytes(-(-blocks // 8)),
            *[segment(0xDA, b"\x01\x01\x00\x01\x3f\x00") + data] * (scans - 1),
            b"\xff\xd9",
        )
    )


def png_with(chunks: int) -> bytes:
    """A PNG with so many empty chunks of a kind that nobody knows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(25 * 8))
    parts = chunk(b"IHDR", header), chunk(b"abCd", b"") * chunks, chunk(b"IDAT", pixels), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_a_progressive_jpeg_of_many_scans_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(InvalidFieldError, match="500 scans; at most 100"):
        open_image(image_pb2.Image(encoded=progressive(500)), LIMITS)


def test_progressive_jpegs_as_cameras_and_editors_write_them_are_read() -> None:
    file = encoded(photograph(), "JPEG", progressive=True)
    assert read_image(image_pb2.Image(encoded=file), LIMITS).shape == (90, 120, 3)
    assert read_image(image_pb2.Image(encoded=progressive(100)), LIMITS).shape == (64, 64, 3)


def test_a_png_of_very_many_chunks_is_refused() -> None:
    with pytest.raises(InvalidFieldError, match="chunks"):
        open_image(image_pb2.Image(encoded=png_with(20_000)), LIMITS)
    assert read_image(image_pb2.Image(encoded=png_with(1000)), LIMITS).shape == (8, 8, 3)


@pytest.mark.parametrize(("form", "options"), [("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})])
def test_only_the_first_frame_of_an_animation_is_read(form: str, options: dict[str, bool]) -> None:
    frames = [Image.new("RGB", (16, 8), (shade, 0, 0)) for shade in (200, 100, 0)]
    buffer = io.BytesIO()
    frames[0].save(buffer, form, save_all=True, append_images=frames[1:], **options)
    pixels = read_image(image_pb2.Image(encoded=buffer.getvalue()), LIMITS)
    assert pixels.shape == (8, 16, 3)
    assert (pixels[..., 0] == 200).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "CMYK", "L", "1"])
def test_bands_give_the_pixels_of_a_conversion_in_one_piece(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (37, 29, 4), dtype=np.uint8), "RGBA").convert(mode)
    file = encoded(image, "TIFF" if mode == "CMYK" else "PNG")
    whole = read_image(image_pb2.Image(encoded=file), LIMITS)
    monkeypatch.setattr("cape.images.BAND_PIXELS", 100)
    np.testing.assert_array_equal(read_image(image_pb2.Image(encoded=file), LIMITS), whole)


def test_images_wait_for_the_memory_of_those_before_them() -> None:
    memory = DecodeMemory(8 * 100)
    first = memory.reserve(60)
    order: list[str] = []

    def later(name: str, pixels: int) -> None:
        size = memory.reserve(pixels)
        order.append(name)
        memory.release(size)

    large = threading.Thread(target=later, args=("larger than all", 1000))
    large.start()
    assert not order
    memory.release(first)
    large.join(30)
    small = threading.Thread(target=later, args=("small", 10))
    small.start()
    small.join(30)
    assert order == ["larger than all", "small"]


def test_damaged_images_give_their_memory_back() -> None:
    memory = DecodeMemory(8 * 120 * 90)
    limits = ImageLimits(2**24, 50_000_000, memory=memory)
    whole = encoded(photograph())
    for _ in range(3):
        with pytest.raises(InvalidFieldError):
            read_image(image_pb2.Image(encoded=whole[: len(whole) // 2]), limits)
    assert read_image(image_pb2.Image(encoded=whole), limits).shape == (90, 120, 3)


def test_running_out_of_memory_is_not_the_caller_s_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("service.images.reading.to_rgb", no_memory)
    with pytest.raises(QueueFullError):
        open_image(image_pb2.Image(encoded=encoded(photograph())), LIMITS)


@contextmanager
def blocked(pool: DecodePool) -> Iterator[None]:
    """Keeps every thread of a pool of one thread busy."""
    gate = threading.Event()
    pool.submit(gate.wait)
    try:
        yield
    finally:
        gate.set()


async def test_a_pool_whose_threads_all_exceed_the_limit_is_stuck_and_recovers() -> None:
    pool = DecodePool(1, max_seconds=0.01)
    with blocked(pool):
        await until(lambda: pool.stuck)
        pool.close()  # does not wait for it
    await until(lambda: not pool.stuck)
