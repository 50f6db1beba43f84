"""Networks a second time: written out from their parameters by name, in float64, layer by layer."""

from __future__ import annotations

import math

import numpy as np
from torch.nn.functional import batch_norm, conv2d, relu


def evaluated(state, name, maps):
    """A batch norm of a network in evaluation mode."""
    mean, variance, weight, bias = (
        state[f"{name}.{each}"] for each in ("running_mean", "running_var", "weight", "bias")
    )
    return batch_norm(maps, mean, variance, weight, bias)


def basic_block(state, name, maps, stride, activation=relu):
    inner = conv2d(maps, state[f"{name}.conv1.weight"], stride=stride, padding=1)
    inner = activation(evaluated(state, f"{name}.bn1", inner))
    inner = conv2d(inner, state[f"{name}.conv2.weight"], padding=1)
    inner = evaluated(state, f"{name}.bn2", inner)
    if f"{name}.downsample.0.weight" in state:
        maps = conv2d(maps, state[f"{name}.downsample.0.weight"], stride=stride)
        maps = evaluated(state, f"{name}.downsample.1", maps)
    return activation(inner + maps)


def resnet(state, images, depths):
    maps = conv2d(images, state["conv1.weight"], padding=1)
    maps = evaluated(state, "bn1", maps).clamp(min=0)
    for stage, depth in enumerate(depths):
        for block in range(depth):
            stride = 2 if stage > 0 and block == 0 else 1
            maps = basic_block(state, f"layer{stage + 1}.{block}", maps, stride)
    return maps


def preact_resnet(state, images, depths, identity):
    """SNCF brief, B17: relu(bn(x)) goes around and not x; conv-BN-ReLU stem; nothing at the end."""
    maps = conv2d(images, state["conv1.weight"], padding=1)
    if not identity:
        maps = evaluated(state, "norm", maps).clamp(min=0)
    for stage, depth in enumerate(depths):
        for block in range(depth):
            stride = 2 if stage > 0 and block == 0 else 1
            name = f"stages.{stage}.{block}"
            active = evaluated(state, f"{name}.bn1", maps).clamp(min=0)
            inner = conv2d(active, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            inner = evaluated(state, f"{name}.bn2", inner).clamp(min=0)
            inner = conv2d(inner, state[f"{name}.conv2.weight"], padding=1)
            if f"{name}.shortcut.weight" in state:
                maps = inner + conv2d(active, state[f"{name}.shortcut.weight"], stride=stride)
            else:
                maps = inner + (maps if identity else active)
    return evaluated(state, "norm", maps).clamp(min=0) if identity else maps


def dictionary_stem(image, weights, bias, patches, pool=np.mean):
    """Patch by patch: normalized, compared with each atom, both signs, pooled over 2x2 places.

    image: (3, H, W); weights: (size * size * 3, K) in order y, x, channel. Gives (2 * K, h, w).
    """
    size, stride = patches.size, patches.stride
    height = (image.shape[1] - size) // stride + 1
    width = (image.shape[2] - size) // stride + 1
    n_atoms = weights.shape[1]
    answers = np.zeros((2 * n_atoms, height, width))
    for y in range(height):
        for x in range(width):
            patch = image[:, y * stride : y * stride + size, x * stride : x * stride + size]
            patch = patch.transpose(1, 2, 0).ravel()
            patch = (patch - patch.mean()) / math.sqrt(patch.var() + patches.contrast_floor)
            response = patch @ weights + bias
            answers[:n_atoms, y, x] = np.maximum(response - patches.threshold, 0)
            answers[n_atoms:, y, x] = np.maximum(-response - patches.threshold, 0)
    result = np.zeros((2 * n_atoms, height // 2, width // 2))
    for y in range(height // 2):
        for x in range(width // 2):
            result[:, y, x] = pool(answers[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2], axis=(1, 2))
    return result
