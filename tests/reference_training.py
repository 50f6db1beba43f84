"""Optimizers a second time: one number after another, float64, nothing shared with the package."""

from __future__ import annotations

import math


def sgd(weight, gradients, *, rate, momentum, nesterov, decay):
    velocity = None
    for gradient in gradients:
        pull = gradient + decay * weight
        velocity = pull if velocity is None else momentum * velocity + pull
        weight -= rate * (pull + momentum * velocity if nesterov else velocity)
    return weight


def adam(weight, gradients, *, rate, betas, decay, decoupled, eps=1e-8):
    first = second = 0.0
    for t, gradient in enumerate(gradients, start=1):
        if decoupled:
            weight -= rate * decay * weight
        else:
            gradient = gradient + decay * weight
        first = betas[0] * first + (1 - betas[0]) * gradient
        second = betas[1] * second + (1 - betas[1]) * gradient**2
        mean, size = first / (1 - betas[0] ** t), second / (1 - betas[1] ** t)
        weight -= rate * mean / (math.sqrt(size) + eps)
    return weight


def muon(weight, gradients, *, rate, momentum, nesterov, decay):
    """Matrices as lists of rows."""
    n, m = len(weight), len(weight[0])
    velocity = [[0.0] * m for _ in range(n)]
    for gradient in gradients:
        velocity = added(scaled(velocity, momentum), gradient)
        ahead = added(gradient, scaled(velocity, momentum)) if nesterov else velocity
        step = scaled(newton_schulz(ahead), 0.2 * math.sqrt(max(n, m)))
        weight = added(scaled(weight, 1 - rate * decay), scaled(step, -rate))
    return weight


def newton_schulz(matrix):
    """X -> a X + b (X X') X + c (X X')^2 X, five times, from Frobenius norm 1."""
    norm = math.sqrt(sum(v * v for row in matrix for v in row))
    rows = scaled(matrix, 1 / norm)
    for _ in range(5):
        square = product(rows, list(zip(*rows, strict=True)))
        third = product(square, rows)
        fifth = product(square, third)
        rows = added(added(scaled(rows, 3.4445), scaled(third, -4.775)), scaled(fifth, 2.0315))
    return rows


def product(a, b):
    columns = list(zip(*b, strict=True))
    return [[sum(x * y for x, y in zip(row, col, strict=True)) for col in columns] for row in a]


def scaled(matrix, factor):
    return [[factor * value for value in row] for row in matrix]


def added(a, b):
    return [[x + y for x, y in zip(*rows, strict=True)] for rows in zip(a, b, strict=True)]
