"""Contrastive training of the small network; stops after so many CPU seconds of one thread."""

import argparse
import math

import numpy as np
import torch
import torch.nn.functional as F
from common import MEAN, STD, Muon, Net, clock, load, random_views, score
from torch import nn

p = argparse.ArgumentParser()
p.add_argument("--folder", default=".")
p.add_argument("--data", default="c10")
p.add_argument("--save", default="net.pt")
p.add_argument("--seconds", type=float, default=200)
p.add_argument("--seed", type=int, default=0)
p.add_argument("--atoms", type=int, default=128)
p.add_argument("--widths", type=int, nargs="+", default=[128, 256])
p.add_argument("--pool", default="max")
p.add_argument("--sizes", nargs="+", default=["24"], help="in turn; 24+16x2: and two of 16 px")
p.add_argument("--batch", type=int, default=256)
p.add_argument("--temperature", type=float, default=0.1)
p.add_argument("--smallest", type=float, default=0.2, help="crop, share of the area")
p.add_argument("--optimizer", default="muon", choices=["muon", "adamw"])
p.add_argument("--lr", type=float, default=0.05, help="adamw: 3e-3")
p.add_argument("--warmup", type=float, default=0.05)
a = p.parse_args()

torch.set_num_threads(1)
torch.manual_seed(a.seed)
images, labels, test, test_labels = load(a.folder, a.data)
start = clock()
strides = [1] + [2] * (len(a.widths) - 1)
net = Net(a.atoms, a.widths, strides, a.pool)
net.learn_stem(images[torch.randperm(len(images))[:3000]])
layers = [nn.Linear(net.dim, 512, bias=False), nn.BatchNorm1d(512), nn.ReLU(True)]
head = nn.Sequential(*layers, nn.Linear(512, 128))
both = nn.ModuleList([net, head]).to(memory_format=torch.channels_last)
matrices = [w for w in both.parameters() if w.ndim > 1]
vectors = [w for w in both.parameters() if w.ndim == 1]
groups, rate = [{"params": vectors, "weight_decay": 0}], 3e-3
if a.optimizer == "adamw":
    groups.append({"params": matrices, "weight_decay": 5e-4})
    rate = a.lr
muon = Muon(matrices) if a.optimizer == "muon" else None
adam = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))


def loss_of(z, n_views):
    """NT-Xent; with more than two views, the mean over each positive pair apart."""
    z = F.normalize(z.float(), dim=1)
    image = torch.arange(len(z)) % (len(z) // n_views)
    same = image[:, None] == image
    logits = z @ z.T / a.temperature
    others = torch.logsumexp(logits.masked_fill(same, -1e4), 1)
    mates = logits[same & ~torch.eye(len(z), dtype=torch.bool)].view(len(z), n_views - 1)
    return (torch.logaddexp(others[:, None], mates) - mates).mean()


n_steps, at, order = 0, 0, torch.randperm(len(images))
while (share := (clock() - start) / a.seconds) < 1:
    if at + a.batch > len(images):
        order, at = torch.randperm(len(images)), 0
    batch = images[order[at : at + a.batch]]
    at += a.batch
    factor = min(1, share / a.warmup) * 0.5 * (1 + math.cos(math.pi * share))
    for group in adam.param_groups:
        group["lr"] = rate * factor
    size, _, small = a.sizes[int(share * len(a.sizes))].partition("+")
    views, n_views = [random_views(batch.repeat(2, 1, 1, 1), int(size), a.smallest)], 2
    if small:
        size, _, n = small.partition("x")
        many = batch.repeat(int(n), 1, 1, 1)
        views.append(random_views(many, int(size), 0.1, largest=0.5))
        n_views += int(n)
    with torch.autocast("cpu", torch.bfloat16):
        z = head(torch.cat([net(view) for view in views]))
    both.zero_grad(set_to_none=True)
    loss_of(z, n_views).backward()
    if muon is not None:
        muon.step(a.lr * factor)
    adam.step()
    n_steps += 1
seconds = clock() - start
shape = {"n_atoms": a.atoms, "widths": a.widths, "strides": strides, "pool": a.pool}
torch.save({"net": net.state_dict(), "shape": shape}, a.save)


@torch.inference_mode()
def features(rows):
    found = []
    for chunk in rows.split(500):
        x = (chunk.float() / 255 - MEAN) / STD
        with torch.autocast("cpu", torch.bfloat16):
            found.append(net(x.contiguous(memory_format=torch.channels_last)).float())
    return torch.cat(found)


net.eval()
result = score(features(images), labels, features(test), test_labels)
epochs = np.round(n_steps * a.batch / len(images), 1)
print(vars(a), f"CPU-s {seconds:.0f} steps {n_steps} epochs {epochs} kNN, purity", *result)
