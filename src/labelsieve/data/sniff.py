"""What a file is, told from its name and its first bytes; nothing is decoded."""

from __future__ import annotations

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".webp", ".bmp", ".dib", ".tif",
     ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".ico", ".avif", ".heic", ".heif",
     ".jxl", ".svg"}
)  # fmt: skip
HEAD_SIZE = 64  # bytes that are enough for every signature below

# signature at byte 0 -> Pillow's name of the format
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"\0\0\1\0", "ICO"),
)
_NETPBM = frozenset(b"P%d" % n for n in range(1, 7))
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})

# signature at byte 0 -> what to call it when it is found in place of an image
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"\xff\x0a", "a JPEG XL image, which Pillow cannot decode"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image, which Pillow cannot decode"),
    (b"<svg", "an SVG drawing, not a picture of pixels"),
    (b"%PDF", "a PDF document, not an image"),
    (b"8BPS", "a Photoshop document, which is not read"),
    (b"PK\x03\x04", "a zip archive, not an image"),
    (b"\x1f\x8b", "gzip-compressed, not an image"),
)


def image_format(data: bytes) -> str | None:
    """Pillow's name of the format that the first bytes announce; None when they announce none.

    Example:
        >>> image_format(b"GIF89a...")
        'GIF'
    """
    for signature, name in _SIGNATURES:
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:2] == b"BM" and data[15:18] == b"\0\0\0":  # the size of its second header, < 256
        return "BMP"
    if data[:2] in _NETPBM and data[2:3].isspace():
        return "PPM"
    if _brands(data) & _AVIF_BRANDS:
        return "AVIF"
    return None


def what_instead(data: bytes) -> str:
    """Plain words for bytes that are no image we can read.

    Example:
        >>> what_instead(b"<html><body>404")
        "not an image: begins with '<html><body>404'"
    """
    if not data:
        return "0 bytes"
    if _brands(data) & _HEIC_BRANDS:
        return "a HEIC image, which Pillow cannot decode; convert it to JPEG"
    text = data.lstrip()
    for signature, words in _OTHERS:
        if data.startswith(signature) or text.startswith(signature):
            return words
    if data[4:8] == b"ftyp":
        return "a video, not an image"
    if not data[:HEAD_SIZE].strip(b"\0"):
        return "not an image: begins with zero bytes"
    return f"not an image: begins with {_beginning(text or data)}"


def looks_like_image(data: bytes) -> bool:
    """Whether the first bytes are those of a picture, be it one that we cannot decode."""
    instead = what_instead(data)
    return image_format(data) is not None or "HEIC" in instead or "JPEG XL" in instead


def _brands(data: bytes) -> set[bytes]:
    """The brands that an ISO media file (HEIC, AVIF, MP4) names in its first box."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), HEAD_SIZE)
    return {data[start : start + 4] for start in range(8, end, 4)}


def _beginning(data: bytes) -> str:
    text = data[:16].decode("utf-8", "ignore").rstrip()
    if text and all(character.isprintable() or character.isspace() for character in text):
        return repr(" ".join(text.split()))
    return f"the bytes {data[:8].hex(' ')}"
