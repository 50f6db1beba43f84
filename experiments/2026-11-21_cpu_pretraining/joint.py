"""The closed-form head over dictionary features and the maps of one or several networks."""

import argparse

import torch
import torch.nn.functional as F
from common import MEAN, STD, Head, Net, clock, load, random_views, score

from labelsieve.features.dictionary import Dictionary, fit

p = argparse.ArgumentParser()
p.add_argument("--folder", default=".")
p.add_argument("--data", default="c10")
p.add_argument("--nets", nargs="*", default=["net.pt"])
p.add_argument("--views", type=int, default=4, help="of each image; more for small sets")
a = p.parse_args()

torch.set_num_threads(1)
torch.manual_seed(5)
images, labels, test, test_labels = load(a.folder, a.data)
start = clock()
model = fit(images.numpy(), Dictionary(n_dimensions=384))
projection = model.projection / model.agreement.clamp(min=1e-4) ** 1.5
shift, fast = model.center @ projection, projection.bfloat16()
print(f"dictionary: {clock() - start:.0f} CPU-s", flush=True)
nets = []
for path in a.nets:
    saved = torch.load(path)
    net = Net(**saved["shape"])
    net.load_state_dict(saved["net"])
    nets.append(net.eval().to(memory_format=torch.channels_last))


@torch.inference_mode()
def encode(x):
    """x normalized. 384 dictionary features; each block's map as means of all and of quarters."""
    pixels = ((x * STD + MEAN) * 255).clamp(0, 255)
    parts = [(model.coder.encode(pixels).bfloat16() @ fast).float() - shift]
    for net in nets:
        with torch.autocast("cpu", torch.bfloat16):
            maps = net.maps(x)
        for each in maps[-2:]:
            each = each.float()
            parts += [each.mean((2, 3)), F.adaptive_avg_pool2d(each, 2).flatten(1)]
    return torch.cat(parts, 1)


def normalize(chunk):
    x = (chunk.float() / 255 - MEAN) / STD
    return x.contiguous(memory_format=torch.channels_last)


start = clock()
few = encode(normalize(images[:1000]))
mean, deviation = few.mean(0), few.std(0) + 1e-6
size = len(mean)
views, means, total = torch.zeros(size, size), torch.zeros(size, size), torch.zeros(size)
for chunk in images.split(250):
    rows = [encode(random_views(chunk, 32, 0.25)) for _ in range(a.views)]
    rows = (torch.stack(rows) - mean) / deviation
    middle = rows.mean(0)
    means.addmm_(middle.T, middle)
    rows = rows.flatten(0, 1)
    views.addmm_(rows.T, rows)
    total += rows.sum(0)
n = len(images)
total /= n * a.views
views = views / (n * a.views) - torch.outer(total, total)
means = means / n - torch.outer(total, total)
head = Head(views, means, a.views)
print(f"head: {clock() - start:.0f} CPU-s", flush=True)


def extract(rows):
    found = []
    for chunk in rows.split(250):
        x = normalize(chunk)
        both = (encode(x) + encode(x.flip(3).contiguous(memory_format=torch.channels_last))) / 2
        found.append((both - mean) / deviation - total)
    return torch.cat(found)


start = clock()
train = extract(images)
print(f"extraction: {clock() - start:.0f} CPU-s", flush=True)
held_out = extract(test)
for d, power in ((256, 1.0), (384, 1.25), (256, 1.5)):
    result = score(head(train, d, power), labels, head(held_out, d, power), test_labels)
    print(f"{d} dimensions, power {power}: kNN, purity", *result, flush=True)
