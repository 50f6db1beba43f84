"""Data, random views, the network, Muon, the closed-form head and the scores, for both scripts."""

import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

MEAN = torch.tensor([0.4914, 0.4822, 0.4465]).view(1, 3, 1, 1)
STD = torch.tensor([0.247, 0.243, 0.262]).view(1, 3, 1, 1)
LUMA = torch.tensor([0.299, 0.587, 0.114])
YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
clock = time.process_time


def load(folder, name):
    """Write these once: {name}_{train,test}_{x,y}.npy, x uint8 (N, 3, 32, 32)."""
    return [
        torch.from_numpy(np.load(f"{folder}/{name}_{part}_{which}.npy"))
        for part in ("train", "test")
        for which in "xy"
    ]


def random_views(images, size, smallest=0.2, jitter=0.4, gray=0.2, largest=1.0):
    """(B, 3, size, size), normalized: crop, flip, color jitter (p .8), gray; no blur."""
    n, _, height, width = images.shape
    area = torch.empty(n).uniform_(smallest, largest) * height * width
    ratio = torch.empty(n).uniform_(math.log(3 / 4), math.log(4 / 3)).exp()
    w, h = (area * ratio).sqrt().clamp(max=width), (area / ratio).sqrt().clamp(max=height)
    left, top = torch.rand(n) * (width - w), torch.rand(n) * (height - h)
    steps = torch.arange(size) + 0.5

    def resize(start, extent, n_pixels):  # bilinear; antialiased where the crop is larger
        step = extent / size
        center = (start[:, None] + steps * step[:, None] - 0.5).clamp(0, n_pixels - 1)
        distance = (center[:, :, None] - torch.arange(n_pixels)).abs()
        weight = (1 - distance / step.clamp(min=1)[:, None, None]).clamp(min=0)
        return weight / weight.sum(2, keepdim=True)

    down, right = resize(top, h, height), resize(left, w, width)
    right = torch.where((torch.rand(n) < 0.5)[:, None, None], right.flip(1), right)
    x = (down[:, None] @ (images.float() / 255) @ right[:, None].transpose(2, 3)).flatten(2)
    on = (torch.rand(n) < 0.8).float()

    def factor(spread):
        return 1 + on * torch.empty(n).uniform_(-spread, spread)

    bright, contrast, color = factor(jitter), factor(jitter), factor(jitter)
    color = torch.where(torch.rand(n) < gray, torch.zeros(n), color)[:, None, None]
    angle = (factor(jitter / 4) - 1) * 2 * math.pi
    turn = torch.zeros(n, 3, 3)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = angle.cos()
    turn[:, 2, 1] = angle.sin()
    turn[:, 1, 2] = -angle.sin()
    mix = color * torch.eye(3) + (1 - color) * LUMA.expand(3, 3)
    mix = mix @ torch.linalg.inv(YIQ) @ turn @ YIQ  # keeps grays
    mean = x.mean(2) @ LUMA
    scale = (bright * contrast)[:, None, None] * mix / STD.view(1, 3, 1)
    offset = ((1 - contrast) * bright * mean)[:, None, None] / STD.view(1, 3, 1)
    x = torch.baddbmm(offset - (MEAN / STD).view(1, 3, 1), scale, x)
    return x.view(n, 3, size, size).contiguous(memory_format=torch.channels_last)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut (ResNet's basic block)."""

    def __init__(self, n_in, n_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(n_out)
        self.short = None
        if stride > 1 or n_in != n_out:
            short = nn.Conv2d(n_in, n_out, 1, stride, bias=False)
            self.short = nn.Sequential(short, nn.BatchNorm2d(n_out))

    def forward(self, x):
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + (x if self.short is None else self.short(x)))


class Net(nn.Module):
    """Frozen stem of whitened patches, both signs, pooled; then learned residual blocks."""

    def __init__(self, n_atoms=128, widths=(128, 256), strides=(1, 2), pool="max", threshold=0.5):
        super().__init__()
        self.pool, self.threshold = pool, threshold
        self.register_buffer("filters", torch.zeros(n_atoms, 3, 6, 6))
        self.register_buffer("bias", torch.zeros(n_atoms))
        n = 2 * n_atoms
        self.norm = nn.BatchNorm2d(n)
        self.blocks = nn.ModuleList()
        for width, stride in zip(widths, strides, strict=True):
            self.blocks.append(Block(n, width, stride))
            n = width
        self.dim = n

    @torch.no_grad()
    def learn_stem(self, images):
        """Whiten contrast-normalized 6x6 patches of 3,000 images; 10 rounds of k-means."""
        cut = F.unfold(images[:3000].float() - 128, 6, stride=2).transpose(1, 2).reshape(-1, 108)
        p = cut[torch.randperm(len(cut))[:150_000]]
        p = p - p.mean(1, keepdim=True)
        p = p / (p.var(1, keepdim=True, unbiased=False) + 10).sqrt()
        mean = p.mean(0)
        values, vectors = torch.linalg.eigh((p - mean).T @ (p - mean) / len(p))
        zca = vectors @ torch.diag((values + 0.1).rsqrt()) @ vectors.T
        white = (p - mean) @ zca
        atoms = white[torch.randperm(len(white))[: len(self.bias)]].clone()
        for _ in range(10):
            half = 0.5 * atoms.square().sum(1)
            near = torch.cat([(q @ atoms.T - half).argmax(1) for q in white.split(4000)])
            count = torch.bincount(near, minlength=len(atoms)).clamp(min=1)
            atoms = torch.zeros_like(atoms).index_add_(0, near, white) / count[:, None]
        weights = F.normalize(atoms, dim=1) @ zca
        self.bias.copy_(weights @ mean)
        self.filters.copy_((weights - weights.mean(1, keepdim=True)).view_as(self.filters))

    @torch.no_grad()
    def stem(self, x):
        x = (x * STD + (MEAN - 0.5)) * 255
        mean = F.avg_pool2d(x.mean(1, keepdim=True), 6, 2)
        square = F.avg_pool2d(x.square().mean(1, keepdim=True), 6, 2)
        scale = ((square - mean.square()).clamp(min=0) + 10).rsqrt()
        y = F.conv2d(x, self.filters, stride=2)
        y = y * scale.to(y.dtype) - self.bias.view(1, -1, 1, 1).to(y.dtype)
        y = torch.cat([F.relu(y - self.threshold), F.relu(-self.threshold - y)], 1)
        return F.max_pool2d(y, 2) if self.pool == "max" else F.avg_pool2d(y, 2)

    def maps(self, x):
        x, maps = self.norm(self.stem(x)), []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return maps

    def forward(self, x):
        return self.maps(x)[-1].mean((2, 3))


def orthogonal(gradient, n_rounds=3):
    """Newton-Schulz; the polynomial is worked out on the small Gram matrix, in bfloat16."""
    x = gradient.bfloat16()
    x = x / (x.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T.contiguous()
    gram, eye, product = x @ x.T, torch.eye(len(x), dtype=x.dtype), None
    for k in range(n_rounds):
        step = 3.4445 * eye - 4.7750 * gram + 2.0315 * (gram @ gram)
        product = step if product is None else step @ product
        if k < n_rounds - 1:
            gram = step @ gram @ step
    x = product @ x
    return x.T if tall else x


class Muon:
    """Orthogonalized Nesterov momentum; matrices keep the norm sqrt(rows), lr is relative."""

    def __init__(self, matrices, momentum=0.9):
        self.matrices, self.momentum = matrices, momentum
        self.buffers = [torch.zeros_like(matrix) for matrix in matrices]

    @torch.no_grad()
    def step(self, lr):
        for matrix, buffer in zip(self.matrices, self.buffers, strict=True):
            buffer.mul_(self.momentum).add_(matrix.grad)
            gradient = matrix.grad.add(buffer, alpha=self.momentum).flatten(1)
            n_rows, n_columns = gradient.shape
            update = orthogonal(gradient).reshape(matrix.shape).to(matrix.dtype)
            update = update * (n_rows / min(n_rows, n_columns)) ** 0.5
            matrix.mul_(n_rows**0.5 / matrix.norm().clamp(min=1e-7)).add_(update, alpha=-lr)


class Head:
    """The linear map along which views of an image agree most, from moments of views."""

    def __init__(self, views, means, n_views, ridge=1e-3, n=384):
        between = (n_views * means - views) / (n_views - 1)
        extra = ridge * views.diagonal().mean() * torch.eye(len(views))
        factor = torch.linalg.cholesky(views + extra)
        half = torch.linalg.solve_triangular(factor, between, upper=False)
        whole = torch.linalg.solve_triangular(factor, half.T.contiguous(), upper=False)
        values, vectors = torch.linalg.eigh((whole + whole.T) / 2)
        self.agreement = values.flip(0)[:n].clamp(1e-4, 1)
        best = vectors.flip(1)[:, :n].contiguous()
        self.map = torch.linalg.solve_triangular(factor.T, best, upper=True)

    def __call__(self, rows, n, power):
        return (rows @ self.map[:, :n]) * self.agreement[:n] ** power


def nearest(queries, rows, k, own=None):
    found = []
    for i in range(0, len(queries), 500):
        similarity = queries[i : i + 500] @ rows.T
        if own is not None:
            similarity[torch.arange(len(similarity)), own[i : i + 500]] = -9
        found.append(similarity.topk(k, 1)[1])
    return torch.cat(found)


def score(train, y, test, y_test):
    """KNN accuracy (k 20, cosine, majority) of the test set; purity of 5,000 train rows, in %."""
    train, test = F.normalize(train, dim=1), F.normalize(test, dim=1)
    votes = F.one_hot(y[nearest(test, train, 20)]).sum(1).argmax(1)
    some = torch.randperm(len(y), generator=torch.Generator().manual_seed(7))[:5000]
    same = y[nearest(train[some], train, 20, some)] == y[some][:, None]
    return [round(100 * v.float().mean().item(), 2) for v in (votes == y_test, same)]
