"""Pictures of every kind become upright RGB, and broken ones reasons in plain words."""

from __future__ import annotations

import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from labelsieve.data import picture as picture_module
from labelsieve.data.decode import decode, decoder_name, fit
from labelsieve.data.picture import pixel_hash
from labelsieve.errors import DataError
from made_pictures import encoded, photo


def reason(data: bytes) -> str:
    with pytest.raises(DataError) as error:
        decode(data)
    return str(error.value)


@pytest.fixture(params=["simplejpeg", "pillow"])
def decoder(request, monkeypatch) -> str:
    """Both decoders of JPEG, one after the other."""
    if request.param == "simplejpeg":
        pytest.importorskip("simplejpeg")
    else:
        monkeypatch.setattr(picture_module, "simplejpeg", None)
    return request.param


# pictures of every kind


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "PPM", "GIF", "JPEG2000"])
def test_lossless_formats_keep_every_pixel(kind):
    pixels = photo()
    if kind == "GIF":  # 256 colors
        pixels = pixels // 128 * 128
    options = {"WEBP": {"lossless": True}}.get(kind, {})
    assert (decode(encoded(pixels, kind, **options)) == pixels).all()


def test_jpeg_is_near_the_picture_and_says_which_decoder(decoder):
    pixels = photo()
    found = decode(encoded(pixels, "JPEG", quality=95))
    assert found.shape == pixels.shape
    assert np.abs(found.astype(int) - pixels).mean() < 2
    assert ("simplejpeg" in decoder_name()) == (decoder == "simplejpeg")
    assert f"pillow {Image.__version__}" in decoder_name()


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("min_side", [0, 5, 20, 31, 100])
def test_both_decoders_of_jpeg_agree(subsampling, min_side, monkeypatch):
    pytest.importorskip("simplejpeg")
    data = encoded(photo(125, 187), "JPEG", quality=90, subsampling=subsampling)
    one = decode(data, min_side)
    monkeypatch.setattr(picture_module, "simplejpeg", None)
    other = decode(data, min_side)
    assert one.shape == other.shape
    assert np.abs(one.astype(int) - other).max() <= 6
    assert np.abs(one.astype(int) - other).mean() < 0.5


def test_large_jpeg_is_decoded_at_the_smallest_scale_that_is_enough(decoder):
    data = encoded(photo(400, 600), "JPEG")
    sizes = {side: decode(data, side).shape[:2] for side in (0, 401, 400, 201, 200, 100, 50, 3)}
    assert sizes == {
        0: (400, 600),
        401: (400, 600),
        400: (400, 600),
        201: (400, 600),
        200: (200, 300),
        100: (100, 150),
        50: (50, 75),
        3: (50, 75),
    }


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation, decoder):
    upright = photo(48, 80)
    exif = Image.Exif()
    exif[0x0112] = orientation
    undo = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, 1),
        7: lambda p: np.rot90(p, 2).transpose(1, 0, 2),
        8: lambda p: np.rot90(p, -1),
    }
    stored = np.ascontiguousarray(undo[orientation](upright))
    for kind, options in (("JPEG", {"quality": 95}), ("PNG", {}), ("WEBP", {"lossless": True})):
        found = decode(encoded(stored, kind, exif=exif, **options))
        assert found.shape == upright.shape, kind
        assert np.abs(found.astype(int) - upright).mean() < 2, kind


def test_orientation_in_xmp_is_applied(decoder):
    xmp = b"""<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF><rdf:Description tiff:Orientation="3"/>
    </rdf:RDF></x:xmpmeta>"""
    stored = np.ascontiguousarray(photo()[::-1, ::-1])
    found = decode(encoded(stored, "JPEG", quality=95, xmp=xmp))
    assert np.abs(found.astype(int) - photo()).mean() < 2


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_tiff_orientation_is_applied_once(orientation):
    about = TiffImagePlugin.ImageFileDirectory_v2()
    about[274] = orientation
    stored = np.ascontiguousarray(np.rot90(photo(), {1: 0, 3: 2, 6: 1}[orientation]))
    assert (decode(encoded(stored, "TIFF", tiffinfo=about)) == photo()).all()


def test_damaged_exif_does_not_spoil_the_picture(decoder):
    exif = b"Exif\0\0" + b"\xff" * 40
    data = encoded(photo(), "JPEG", exif=exif)
    assert decode(data).shape == (40, 60, 3)


def test_gray_palette_and_one_bit_pictures_become_rgb(decoder):
    gray = photo()[:, :, 0]
    for data in (encoded(gray), encoded(gray, "JPEG", quality=100)):
        found = decode(data)
        assert (found[:, :, 0] == found[:, :, 1]).all()
        assert np.abs(found[:, :, 2].astype(int) - gray).max() < 4
    bits = Image.fromarray(gray > 100)
    assert bits.mode == "1"
    assert (decode(encoded(bits))[:, :, 1] == np.where(gray > 100, 255, 0)).all()
    palette = Image.fromarray(photo()).quantize(16)
    assert (decode(encoded(palette)) == np.asarray(palette.convert("RGB"))).all()


def test_what_is_transparent_is_white():
    pixels = np.dstack([photo(), np.full((40, 60), 255, np.uint8)])
    pixels[:20, :, 3] = 0
    pixels[20:30, :, 3] = 128
    found = decode(encoded(pixels))
    assert (found[:20] == 255).all()
    assert (found[30:] == photo()[30:]).all()
    half = (photo()[20:30].astype(int) * 128 + 255 * 127) / 255
    assert np.abs(found[20:30] - half).max() <= 1
    gray = np.dstack([photo()[:, :, 0], np.zeros((40, 60), np.uint8)])
    assert (decode(encoded(gray)) == 255).all()  # gray with alpha
    key = encoded(np.zeros((4, 4), np.uint8), transparency=0)
    assert (decode(key) == 255).all()  # one gray level is transparent
    palette = Image.fromarray(photo()).quantize(4)
    clear = encoded(palette, transparency=bytes([0, 0, 0, 0]))
    assert (decode(clear) == 255).all()  # palette with an alpha for each color


def test_cmyk_jpeg_is_converted(decoder):
    data = encoded(Image.fromarray(photo()).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(decode(data).astype(int) - photo()).mean() < 4


def test_16_bits_are_scaled_and_not_clipped():
    values = np.array([[0, 256, 257, 32768, 65535]], np.uint16)
    expected = [0, 1, 1, 128, 255]
    for kind in ("PNG", "TIFF"):
        assert decode(encoded(values, kind))[0, :, 0].tolist() == expected


def test_32_bits_are_stretched_from_least_to_greatest():
    whole = np.array([[-100, 0, 100]], np.int32)
    assert decode(encoded(whole, "TIFF"))[0, :, 0].tolist() == [0, 128, 255]
    real = np.array([[0.0, 0.5, 1.0, np.nan, np.inf]], np.float32)
    assert decode(encoded(real, "TIFF"))[0, :, 0].tolist() == [0, 128, 255, 0, 255]
    assert (decode(encoded(np.full((2, 2), 7.0, np.float32), "TIFF")) == 0).all()


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert decode(data)[0, 0].tolist() == [255, 0, 0], kind


# what is broken, and why


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "0 bytes"),
        (b"<html><body>404 not found", "not an image: begins with '<html><body>404'"),
        (b"\n\n<!DOCTYPE html>", "not an image: begins with '<!DOCTYPE html>'"),
        (b'{"error": 1}', "not an image: begins with '{\"error\": 1}'"),
        (b"\x01\x02\x03\x04\x05\x06\x07\x08\x09", "the bytes 01 02 03 04 05 06 07 08"),
        (b"\0" * 100, "not an image: begins with zero bytes"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC image, which Pillow cannot decode"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "a video, not an image"),
        (b"\xff\x0a\0\0", "a JPEG XL image, which Pillow cannot decode"),
        (b"%PDF-1.4", "a PDF document, not an image"),
        (b"<svg xmlns=", "an SVG drawing, not a picture of pixels"),
        (b"BM is how this text begins", "not an image: begins with 'BM is how this t'"),
        (b"P6 and so does this", "damaged PPM"),
        (b"GIF89a\1\0\1\0\0\0\0;", "begins like GIF, but is no picture (14 bytes)"),
        (b"PK\x03\x04", "a zip archive, not an image"),
        (b"\xff\xd8\xff", "JPEG"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"%!PS-Adobe EPSF", "not an image: begins with '%!PS-Adobe EPSF'"),  # needs Ghostscript
    ],
)
def test_what_is_no_picture_says_what_it_is(data, expected, decoder):
    assert expected in reason(data)


def test_a_format_that_this_pillow_lacks_is_named(monkeypatch):
    Image.init()
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    data = b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf"
    assert reason(data) == f"AVIF, which Pillow {Image.__version__} as installed cannot decode"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF"])
def test_a_truncated_file_is_broken_and_says_where_it_ends(kind, decoder):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encoded(noise, kind)
    for part in (0.3, 0.6, 0.9):
        cut = data[: int(part * len(data))]
        words = reason(cut)
        assert str(len(cut)) in words or "damaged" in words, words
    if kind in ("BMP", "WEBP"):
        assert words == f"truncated after {len(cut)} of {len(data)} bytes"
    if kind in ("JPEG", "PNG"):
        assert (
            words == f"truncated: this {kind} ends after {len(cut)} bytes, before its picture does"
        )


def png_of_size(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def test_decompression_bombs_are_refused_by_their_size(decoder):
    assert reason(png_of_size(63_000, 63_000)) == (
        "63000 x 63000 px is over the limit of 178,956,970 px (decompression bomb)"
    )
    data = bytearray(encoded(photo(), "JPEG"))
    at = data.index(b"\xff\xc0") + 5  # height and width in the start-of-frame segment
    data[at : at + 4] = struct.pack(">HH", 60_000, 50_000)
    assert reason(bytes(data)).startswith("50000 x 60000 px is over the limit")


def test_warnings_of_pillow_do_not_leak_and_ours_stay(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)  # 40 x 60 is enough for a warning
    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        inside = list(warnings.filters)
        assert (decode(encoded(photo())) == photo()).all()
        data = encoded(Image.fromarray(photo()).quantize(4), transparency=bytes([0, 9]))
        decode(data)
        assert warnings.filters == inside
        warnings.warn("PIL has nothing to do with this", stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["PIL has nothing to do with this"]
    assert list(warnings.filters) == before


def test_warnings_stay_quiet_in_many_threads(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)
    data = encoded(photo())
    seen: list[int] = []

    def work() -> None:
        for _ in range(100):
            seen.append(int(decode(data).max()))  # a warning is an error here

    before = list(warnings.filters)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [255] * 400
    assert list(warnings.filters) == before


def check_decoded_or_reason(data: bytes) -> None:
    """Nothing else than our own error comes out, and it says something."""
    pixels, words = None, ""
    try:
        pixels = decode(data)
    except DataError as error:
        words = str(error)
    assert words if pixels is None else pixels.dtype == np.uint8 and pixels.shape[2] == 3


@given(data=st.binary(max_size=200), head=st.sampled_from([b"\xff\xd8\xff", b"GIF89a", b"BM", b""]))
def test_any_bytes_decode_or_give_a_reason(data, head):
    check_decoded_or_reason(head + data)


@given(seed=st.integers(0, 1000), kind=st.sampled_from(["JPEG", "PNG", "GIF", "TIFF", "WEBP"]))
def test_damaged_files_decode_or_give_a_reason(seed, kind):
    rng = np.random.default_rng(seed)
    data = bytearray(encoded(photo(16, 16), kind))
    for place in rng.integers(0, len(data), 5):
        data[place] = rng.integers(256)
    check_decoded_or_reason(bytes(data))


# size


def test_fit_takes_the_middle_and_keeps_what_has_the_size():
    pixels = photo(32, 32)
    assert fit(pixels, 32) is pixels
    wide = photo(40, 100)
    assert (fit(wide, 40) == wide[:, 30:70]).all()
    assert (fit(wide.transpose(1, 0, 2).copy(), 40) == wide.transpose(1, 0, 2)[30:70]).all()
    whole = Image.fromarray(wide).resize((50, 20), Image.Resampling.BILINEAR)
    assert np.abs(fit(wide, 20).astype(int) - np.asarray(whole)[:, 15:35]).max() <= 1
    assert fit(np.full((1, 9, 3), 7, np.uint8), 4).tolist() == np.full((4, 4, 3), 7).tolist()


def test_fit_averages_and_does_not_alias():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = fit(stripes, 8)
    assert np.abs(small.astype(int) - 127.5).max() < 4


@given(height=st.integers(1, 50), width=st.integers(1, 50), size=st.integers(1, 40))
def test_fit_keeps_a_plain_color_and_the_mean(height, width, size):
    assert (fit(np.full((height, width, 3), 93, np.uint8), size) == 93).all()


def test_equal_pictures_have_equal_hashes_whatever_their_files():
    pixels = photo()
    exif = Image.Exif()
    exif[0x010E] = "a description"
    same = [encoded(pixels), encoded(pixels, "BMP"), encoded(pixels, exif=exif)]
    assert len({pixel_hash(decode(data)) for data in same}) == 1
    other = pixels.copy()
    other[3, 3, 1] ^= 1
    turned = pixels.reshape(60, 40, 3)  # the same bytes in another shape
    assert len({pixel_hash(p) for p in (pixels, other, turned)}) == 3
