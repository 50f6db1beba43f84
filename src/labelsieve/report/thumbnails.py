"""Small pictures as text that an HTML page carries in itself, bounded in number of bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageOps, features

from labelsieve.data.picture import decode, pixel_hash
from labelsieve.data.places import Reader, reading_order
from labelsieve.errors import DataError
from labelsieve.records import ImageSet

LARGE, SMALL, TILE = 160, 96, 40  # longest side, px; shown at 112, about 70, and 80 px
BUDGET = 11 << 20  # characters of all pictures of a page
N_THREADS = 4

# WebP is a third smaller than JPEG; a Pillow built without it is rare.
_FORMAT, _TYPE = ("WEBP", "webp") if features.check("webp") else ("JPEG", "jpeg")


@dataclass
class Thumbnails:
    """The pictures of a page, as data URIs; a row that is missing cannot be read or had no room."""

    large: dict[int, str] = field(default_factory=dict)
    small: dict[int, str] = field(default_factory=dict)
    hashes: dict[int, int] = field(default_factory=dict)  # of the whole picture, where asked for
    sheet: str = ""  # all tiles in one picture, row by row
    sheet_columns: int = 1
    n_left_out: int = 0  # pictures for which there was no room

    def add(self, to: dict[int, str], row: int, picture: Image.Image, room: int) -> int:
        """Put a picture in where there is room for it; gives the characters it takes."""
        text = _data_uri(picture, quality=80)
        if len(text) > room:
            self.n_left_out += 1
            return 0
        to[row] = text
        return len(text)


def make_thumbnails(
    images: ImageSet,
    large: Collection[int],
    small: Collection[int],
    tiles: Sequence[int] = (),
    hashed: Collection[int] = (),
    budget: int = BUDGET,
    progress: Callable[[int, int], None] | None = None,
) -> Thumbnails:
    """Decode each image once and shrink it to every size that is asked for.

    Args:
        images: where the bytes are.
        large: rows that are shown large.
        small: rows that are shown small.
        tiles: rows of the map, in the order of the sheet.
        hashed: rows whose hash of all pixels is wanted; equal hashes mean identical pixels.
        budget: characters, at most, that all pictures take in the page.
        progress: told (done, total) images.

    Returns:
        the pictures; images that cannot be read are missing, and gray in the sheet.
    """
    made = Thumbnails(sheet_columns=max(1, int(np.ceil(np.sqrt(len(tiles))))))
    sheet = _Sheet(len(tiles), made.sheet_columns)
    places = {row: i for i, row in enumerate(tiles)}
    sides = {row: TILE for row in (*hashed, *tiles)}
    sides |= dict.fromkeys(small, SMALL) | dict.fromkeys(large, LARGE)
    wanted = np.array(sorted(sides), np.int64)
    wanted = wanted[reading_order(images.places.take(wanted))]
    # The sheet is one picture that is finished last: its share of the budget is set aside.
    room = budget - TILE * TILE * len(tiles) // 2
    decoded = _decoded(Reader(images.places), wanted.tolist(), sides, hashed)
    for done, (row, found) in enumerate(decoded, start=1):
        if found is not None:
            if row in hashed:
                made.hashes[row] = found.hash
            if row in places:
                sheet.put(places[row], found.picture)
            if row in large:
                room -= made.add(made.large, row, _shrink(found.picture, LARGE), room)
            if row in small:
                room -= made.add(made.small, row, _shrink(found.picture, SMALL), room)
        if progress is not None:
            progress(done, len(wanted))
    if tiles:
        made.sheet = _data_uri(sheet.picture, quality=60)
    return made


def thumbnails_of_two(
    images: ImageSet,
    large: Collection[int],
    small: Collection[int],
    test_images: ImageSet | None,
    test_small: Collection[int],
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Thumbnails, Thumbnails]:
    """Pictures of training and of test images that together keep to the budget of a page.

    The test images, which are few and small, come first.

    Args:
        images: to train on.
        large: rows of them that are shown large.
        small: rows of them that are shown small.
        test_images: to test on; None without any.
        test_small: rows of these, all shown small.
        progress: told (done, total) pictures of both.
    """
    n_all = len(set(test_small)) + len({*large, *small})

    def told(n_before: int) -> Callable[[int, int], None] | None:
        return None if progress is None else lambda done, _: progress(n_before + done, n_all)

    test = Thumbnails()
    if test_images is not None and test_small:
        test = make_thumbnails(test_images, [], test_small, progress=told(0))
    room = BUDGET - sum(map(len, test.small.values()))
    n_test = len(set(test_small))
    return make_thumbnails(images, large, small, budget=room, progress=told(n_test)), test


class _Sheet:
    """Tiles of one size side by side, each with its image fitted into the middle."""

    def __init__(self, n_tiles: int, n_columns: int) -> None:
        n_rows = -(-n_tiles // n_columns)
        size = (n_columns * TILE, max(1, n_rows) * TILE)
        self.picture = Image.new("RGB", size, "gray")
        self.n_columns = n_columns

    def put(self, place: int, picture: Image.Image) -> None:
        small = ImageOps.contain(picture, (TILE, TILE))
        down, right = divmod(place, self.n_columns)
        left, top = (TILE - small.width) // 2, (TILE - small.height) // 2
        self.picture.paste(small, (right * TILE + left, down * TILE + top))


@dataclass(frozen=True)
class _Decoded:
    picture: Image.Image  # of the largest size that is asked for
    hash: int


def _decoded(
    reader: Reader, rows: Sequence[int], sides: Mapping[int, int], hashed: Collection[int]
) -> Iterator[tuple[int, _Decoded | None]]:
    """Decode in threads and give in order; a large image is held only while it is shrunk."""

    def one(row: int) -> tuple[int, _Decoded | None]:
        try:
            # a hash wants all pixels; else a JPEG need not be decoded in full
            pixels = decode(reader.read(row), min_side=0 if row in hashed else sides[row])
        except DataError:
            return row, None  # shown as a placeholder
        picture = _shrink(Image.fromarray(pixels), sides[row])
        return row, _Decoded(picture, pixel_hash(pixels) if row in hashed else 0)

    with ThreadPoolExecutor(N_THREADS) as pool:
        yield from pool.map(one, rows)


def _shrink(picture: Image.Image, side: int) -> Image.Image:
    """At most `side` px on the longer side; a smaller picture stays as it is."""
    scale = side / max(picture.size)
    if scale >= 1:
        return picture
    width, height = (max(1, round(length * scale)) for length in picture.size)
    return picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)


def _data_uri(picture: Image.Image, quality: int) -> str:
    encoded = io.BytesIO()
    picture.save(encoded, _FORMAT, quality=quality)
    return f"data:image/{_TYPE};base64,{base64.b64encode(encoded.getvalue()).decode('ascii')}"
