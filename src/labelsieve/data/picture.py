"""One encoded picture becomes uint8 RGB, or a reason in plain words why it cannot."""

from __future__ import annotations

import hashlib
import io
import threading
import warnings
from importlib.metadata import version
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError, features

from labelsieve.data.sniff import image_format, what_instead
from labelsieve.errors import DataError

try:
    import simplejpeg
except ImportError:  # the extra is optional; Pillow decodes everything
    simplejpeg = None

MAX_PIXELS = 178_956_970  # of one picture; the number above which Pillow suspects an attack
_ORIENTATION = 0x0112  # EXIF tag
_METADATA_SIZE = 1 << 17  # bytes at the head of a JPEG in which its orientation stands


def decode(data: bytes, min_side: int = 0) -> NDArray[np.uint8]:
    """The picture in some bytes, upright and in RGB.

    The first frame of an animation; gray as three equal channels; transparency on white; 16 bits
    scaled to 8, and 32 bits stretched between their least and greatest; CMYK without its profile.

    Args:
        data: a whole encoded file.
        min_side: pixels. A JPEG is decoded at the smallest of 1/1, 1/2, 1/4, 1/8 of its size that
            leaves both sides at least this long; 0 decodes it in full.

    Returns:
        (H, W, 3), contiguous.

    Raises:
        DataError: these bytes are no picture, only part of one, or more than 179 million pixels;
            the text is the reason, without the image's name.
    """
    kind = image_format(data)
    if kind is None:
        raise DataError(what_instead(data))
    if kind == "JPEG" and simplejpeg is not None:
        pixels = _decode_jpeg(data, min_side)
        if pixels is not None:
            return pixels
    with _quiet:
        return _decode_any(data, kind, min_side)


def fit(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The central square of a picture, resized with antialiasing.

    The same as resizing the short side to `size` and then cutting the middle out of the long side.

    Args:
        pixels: (H, W, 3).
        size: side of the result, pixels.

    Returns:
        (size, size, 3).
    """
    height, width = pixels.shape[:2]
    if height == width == size:
        return pixels
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    picture = Image.fromarray(pixels)
    box = (left, top, left + side, top + side)
    small = picture.resize((size, size), Image.Resampling.BILINEAR, box, reducing_gap=2.0)
    return np.asarray(small)


def pixel_hash(pixels: NDArray[np.uint8]) -> int:
    """64 bits of a SHA-256 over height, width and RGB bytes: equal means the same picture.

    SHA-256 and not BLAKE2, as processors have instructions for it: .3 against .7 ms at 500 x 375.
    """
    digest = hashlib.sha256(b"%d %d " % pixels.shape[:2])
    digest.update(np.ascontiguousarray(pixels).data)
    return int.from_bytes(digest.digest()[:8], "big")


def decoder_name() -> str:
    """What decodes here, with versions: other decoders may differ by a gray level or two."""
    jpeg = features.version("libjpeg_turbo") or features.version("jpg")
    name = f"pillow {PIL.__version__} with libjpeg {jpeg}"
    return name if simplejpeg is None else f"simplejpeg {version('simplejpeg')}, {name}"


def _decode_jpeg(data: bytes, min_side: int) -> NDArray[np.uint8] | None:
    """A plain JPEG by simplejpeg; None for one that Pillow should judge: CMYK, damaged, or huge."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        if colorspace.upper() in ("CMYK", "YCCK") or height * width > MAX_PIXELS:
            return None
        # simplejpeg could also scale by 3/8 and the like; Pillow cannot, and both shall agree
        scale = _scale(width, height, min_side)
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data, min_height=-(-height // scale), min_width=-(-width // scale)
        )
    except (ValueError, RuntimeError, MemoryError):
        return None
    if not any(mark in data[:_METADATA_SIZE] for mark in (b"Exif\0\0", b"tiff:Orientation")):
        return pixels
    with _quiet:
        return _upright(pixels, _orientation(data))


def _scale(width: int, height: int, min_side: int) -> int:
    """The factor by which Pillow's draft() shrinks a JPEG."""
    room = min(width, height) // min_side if min_side else 1
    return next((scale for scale in (8, 4, 2) if scale <= room), 1)


def _orientation(data: bytes) -> int:
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
            return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:
        return 1  # damaged EXIF; the pixels are fine


def _decode_any(data: bytes, kind: str, min_side: int) -> NDArray[np.uint8]:
    Image.init()  # does something once only
    if kind not in Image.OPEN:
        raise DataError(f"{kind}, which Pillow {PIL.__version__} as installed cannot decode")
    try:
        with Image.open(io.BytesIO(data), formats=[kind]) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise DataError(_too_large(width, height))
            if min_side and picture.format in ("JPEG", "MPO"):
                picture.draft(None, (min_side, min_side))
            picture.load()
            pixels = _rgb(picture)
            try:
                orientation = int(picture.getexif().get(_ORIENTATION, 1))
            except Exception:
                orientation = 1
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(_bomb(data, kind)) from error
    except Exception as error:  # a damaged file makes decoders raise anything
        raise DataError(_why(error, data, kind)) from error
    return _upright(pixels, orientation)


def _rgb(picture: Image.Image) -> NDArray[np.uint8]:
    """Any of Pillow's modes as (H, W, 3) uint8."""
    if picture.mode.startswith("I;16"):
        values = np.asarray(picture).astype(np.uint32)
        return _gray(((values + 128) // 257).astype(np.uint8))
    if picture.mode in ("I", "F"):
        return _gray(_stretched(np.asarray(picture).astype(np.float64)))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        paper = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(paper, picture)
    return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))


def _stretched(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 0.0)
    filled = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    return ((filled - low) * 255 / max(high - low, 1e-300) + 0.5).astype(np.uint8)


def _gray(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(values[:, :, None], 3, axis=2)


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undo what EXIF says the camera did: 1 to 8, anything else is taken as 1."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _too_large(width: int, height: int) -> str:
    return f"{width} x {height} px is over the limit of {MAX_PIXELS:,} px (decompression bomb)"


def _bomb(data: bytes, kind: str) -> str:
    """Pillow refuses before it tells the size; its plugins, asked directly, tell it."""
    try:
        made: Any = Image.OPEN[kind][0](io.BytesIO(data), "")
        return _too_large(*made.size)
    except Exception:
        return f"more than the limit of {MAX_PIXELS:,} px (decompression bomb)"


def _why(error: Exception, data: bytes, kind: str) -> str:
    text = str(error)
    expected = _announced_size(data, kind)
    if expected is not None and len(data) < expected:
        return f"truncated after {len(data)} of {expected} bytes"
    if isinstance(error, EOFError) or "truncated" in text.lower() or "unexpected end" in text:
        return f"truncated: this {kind} ends after {len(data)} bytes, before its picture does"
    if isinstance(error, UnidentifiedImageError):
        return f"begins like {kind}, but is no picture ({len(data)} bytes)"
    if isinstance(error, MemoryError):
        return "too large for the memory there is"
    return f"damaged {kind}: {text or type(error).__name__}"


def _announced_size(data: bytes, kind: str) -> int | None:
    """How many bytes the file should have, where its head says so."""
    if kind == "WEBP" and len(data) >= 8:
        return int.from_bytes(data[4:8], "little") + 8
    if kind == "BMP" and len(data) >= 6:
        return int.from_bytes(data[2:6], "little") or None
    return None


class _Quiet:
    """Keep Pillow's warnings from leaking while any thread decodes.

    `warnings.catch_warnings` restores a list that all threads share, and so cannot be used in one
    of several threads. Here the first to come puts one filter in, and the last to go takes it out.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._filter: Any = None

    def __enter__(self) -> None:
        with self._lock:
            self._depth += 1
            # also where a test or a host program has put its own filters first since
            if (
                self._filter is None
                or not warnings.filters
                or warnings.filters[0] is not self._filter
            ):
                warnings.filterwarnings("ignore", module=r"PIL\.")
                self._filter = warnings.filters[0]

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._depth -= 1
            if not self._depth:
                if self._filter in warnings.filters:
                    warnings.filters.remove(self._filter)  # type: ignore[attr-defined]
                self._filter = None


_quiet = _Quiet()
