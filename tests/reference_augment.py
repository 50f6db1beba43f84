"""Augmentation a second time: image by image, with Pillow, NumPy and loops; no torch.

The operations call what published codes call: ImageOps, ImageEnhance, rotate and transform with
nearest-neighbor resampling and black fill.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

AFFINE, NEAREST = Image.Transform.AFFINE, Image.Resampling.NEAREST


def picture(pixels: np.ndarray) -> Image.Image:
    """(3, H, W) uint8 as Pillow has it."""
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def pixels(image: Image.Image) -> np.ndarray:
    return np.array(image).transpose(2, 0, 1)


def _moved(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, AFFINE, matrix, NEAREST)


# name: (what it does to a picture with an amount, least and most amount), in the package's order
OPERATIONS = {
    "identity": (lambda image, _: image, 0, 1),
    "autocontrast": (lambda image, _: ImageOps.autocontrast(image), 0, 1),
    "equalize": (lambda image, _: ImageOps.equalize(image), 0, 1),
    "solarize": (ImageOps.solarize, 0, 256),
    "posterize": (lambda image, bits: ImageOps.posterize(image, int(bits)), 4, 8),
    "color": (lambda image, factor: ImageEnhance.Color(image).enhance(factor), 0.05, 0.95),
    "contrast": (lambda image, factor: ImageEnhance.Contrast(image).enhance(factor), 0.05, 0.95),
    "brightness": (
        lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
        0.05,
        0.95,
    ),
    "sharpness": (lambda image, factor: ImageEnhance.Sharpness(image).enhance(factor), 0.05, 0.95),
    "rotation": (lambda image, degrees: image.rotate(degrees), -30, 30),
    "shear_x": (lambda image, share: _moved(image, 1, share, 0, 0, 1, 0), -0.1, 0.1),
    "shear_y": (lambda image, share: _moved(image, 1, 0, 0, share, 1, 0), -0.1, 0.1),
    "translation_x": (
        lambda image, share: _moved(image, 1, 0, share * image.width, 0, 1, 0),
        -0.1,
        0.1,
    ),
    "translation_y": (
        lambda image, share: _moved(image, 1, 0, 0, 0, 1, share * image.height),
        -0.1,
        0.1,
    ),
}
NAMES = list(OPERATIONS)


def amount(name: str, uniform: float) -> float:
    """Where `uniform` in [0, 1) lies in the range; amounts of colors in float32, as Pillow's C."""
    _, least, most = OPERATIONS[name]
    if NAMES.index(name) < NAMES.index("rotation"):
        return float(np.float32(least) + np.float32(most - least) * np.float32(uniform))
    return least + (most - least) * float(uniform)


def operated(image: np.ndarray, chosen: list[int], uniform: list[float]) -> np.ndarray:
    """(3, H, W) uint8 after its operations, one after the other."""
    shown = picture(image)
    for operation, share in zip(chosen, uniform, strict=True):
        name = NAMES[operation]
        shown = OPERATIONS[name][0](shown, amount(name, share))
    return pixels(shown)


def resized(image: np.ndarray, box: tuple[int, int, int, int], size: int) -> np.ndarray:
    """What (left, top, right, bottom) shows, cut out and resized by Pillow's bilinear filter."""
    return pixels(picture(image).crop(box).resize((size, size), Image.Resampling.BILINEAR))


def recolored(
    image: np.ndarray, brightness: float, contrast: float, saturation: float, turn: float
) -> np.ndarray:
    """One operation after the other, pixel by pixel in float64, no clamping."""
    luma = np.array([0.299, 0.587, 0.114])
    axis = np.ones(3) / math.sqrt(3)
    cosine, sine = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)
    colors = image.reshape(3, -1).T.astype(np.float64) * brightness  # (pixels, 3)
    mean = np.mean([luma @ color for color in colors])
    result = []
    for color in colors:
        color = mean + contrast * (color - mean)
        gray = luma @ color
        color = gray + saturation * (color - gray)
        along = (axis @ color) * axis
        result.append(along + cosine * (color - along) + sine * np.cross(axis, color))
    return np.array(result).T.reshape(image.shape)


def blurred(image: np.ndarray, deviation: float) -> np.ndarray:
    """Every pixel the mean of all, weighted by a Gaussian of their distance."""
    channels, height, width = image.shape
    result = np.zeros(image.shape)
    for y in range(height):
        for x in range(width):
            weights = np.outer(_gaussian(height, y, deviation), _gaussian(width, x, deviation))
            for channel in range(channels):
                result[channel, y, x] = (weights * image[channel]).sum()
    return result


def blurred_separably(image: np.ndarray, deviation: float) -> np.ndarray:
    """The same, down and then across: for larger images."""
    down = np.array([_gaussian(image.shape[1], y, deviation) for y in range(image.shape[1])])
    right = np.array([_gaussian(image.shape[2], x, deviation) for x in range(image.shape[2])])
    return np.array([down @ channel @ right.T for channel in image])


def _gaussian(size: int, center: int, deviation: float) -> np.ndarray:
    weights = np.exp(-((np.arange(size) - center) ** 2) / (2 * deviation**2))
    return weights / weights.sum()


def shifted(
    image: np.ndarray, top: int, left: int, mirrored: bool, size: int, padding: int
) -> np.ndarray:
    """Pixel by pixel from the image with a black rim, then mirrored."""
    _, height, width = image.shape
    result = np.zeros((3, size, size), image.dtype)
    for y in range(size):
        for x in range(size):
            row, column = top + y - padding, left + x - padding
            if 0 <= row < height and 0 <= column < width:
                result[:, y, size - 1 - x if mirrored else x] = image[:, row, column]
    return result


def hole(size: int, length: int, y: int, x: int) -> np.ndarray:
    """(size, size) True within Cutout's square."""
    inside = np.zeros((size, size), bool)
    half = length // 2
    inside[max(0, y - half) : max(0, y + half), max(0, x - half) : max(0, x + half)] = True
    return inside


def crop_box(
    uniform: list[float], height: int, width: int, smallest: float, aspect: float
) -> tuple[int, int, int, int]:
    """Left, top, right, bottom: try after try, as torchvision does; ten tries."""
    for attempt in range(10):
        area = height * width * (smallest + (1 - smallest) * uniform[attempt])
        ratio = math.exp((2 * uniform[10 + attempt] - 1) * math.log(aspect))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            top = int(uniform[20] * (height - high + 1))
            left = int(uniform[21] * (width - wide + 1))
            return left, top, left + wide, top + high
    wide, high = width, height
    if width / height < 1 / aspect:
        high = round(width * aspect)
    elif width / height > aspect:
        wide = round(height * aspect)
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high
