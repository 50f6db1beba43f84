from __future__ import annotations

import math
import subprocess
import sys
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from labelsieve.errors import ConfigError
from labelsieve.loop.runtime import Runtime, bare, fastest_precision
from processes import together

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


def network(dtype):
    torch.manual_seed(5)
    made = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 6),
    )  # fmt: skip
    return made.to(dtype)


def views(dtype, n_batches=2, n=8):
    made = torch.Generator().manual_seed(1)
    return [
        [torch.randn(n, 3, 6, 6, generator=made, dtype=torch.float64).to(dtype) for _ in range(2)]
        for _ in range(n_batches)
    ]


def contrastive(first, second, temperature=0.2):
    """Both views against all of both: every row's gradient depends on every other row."""
    rows = torch.cat([first, second])
    logits = rows @ rows.T / temperature
    logits = logits.masked_fill(torch.eye(len(rows), dtype=torch.bool), -1e9)
    return cross_entropy(logits, torch.arange(len(rows)).roll(len(first)))


def own(runtime, rows):
    n = len(rows) // runtime.n_processes
    return rows[runtime.rank * n : (runtime.rank + 1) * n]


def trained_step(dtype, objective, largest_norm):
    """Loss, gradients, and the network after one clipped update from two batches."""
    runtime = Runtime.start()
    net = runtime.prepare(network(dtype)).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    batches, losses = views(dtype), []
    for i, (first, second) in enumerate(batches):
        with runtime.accumulating([net], last=i == len(batches) - 1):
            # two calls before one backward, as methods with two networks need it
            rows = [normalize(net(own(runtime, view)), dim=1) for view in (first, second)]
            if objective == "gathered":
                loss = contrastive(*map(runtime.gather, rows))
            elif objective == "detached":
                loss = contrastive(*map(runtime.gather_detached, rows)) + 0 * rows[0].sum()
            else:
                labels = own(runtime, torch.arange(len(first)) % 6)
                loss = cross_entropy(rows[0] / 0.1, labels) + 0 * rows[1].sum()
            runtime.backward(loss / len(batches))
        losses.append(runtime.mean(loss))
    gradients = [weight.grad.clone() for weight in net.parameters()]
    runtime.clip_and_step([optimizer], largest_norm)
    return torch.stack(losses), gradients, bare(net).state_dict()


def assert_near(found, expected, tolerance):
    for a, b in zip(found, expected, strict=True):
        scale = max(float(b.abs().max()), 1.0) if b.is_floating_point() else 1.0
        assert float((a - b).abs().max()) <= tolerance * scale


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("objective", ["gathered", "own share"])
@pytest.mark.parametrize("largest_norm", [0.0, 0.05])
def test_two_processes_have_the_loss_gradient_and_update_of_one(dtype, objective, largest_norm):
    losses, gradients, state = trained_step(dtype, objective, largest_norm)
    assert sum(float(g.square().sum()) for g in gradients) > 0.05**2  # so that it is clipped
    for theirs in together(trained_step, dtype, objective, largest_norm):
        assert_near(theirs[0], losses, TOLERANCE[dtype])
        assert_near(theirs[1], gradients, TOLERANCE[dtype])
        assert list(theirs[2]) == list(state)
        assert_near(theirs[2].values(), state.values(), TOLERANCE[dtype])


def test_without_the_gradient_of_gather_two_processes_learn_nothing():
    _, gradients, _ = trained_step(torch.float64, "gathered", 0.0)
    for _, theirs, _ in together(trained_step, torch.float64, "detached", 0.0):
        assert float(theirs[0].abs().max()) < 1e-3 * float(gradients[0].abs().max())


def normalized(kind, dtype, settings, train):
    """What a batch norm gives, its gradients, and its running statistics, after two batches."""
    runtime = Runtime.start()
    norm = kind(4, **settings).to(dtype)
    if norm.affine:
        with torch.no_grad():
            norm.weight.copy_(torch.tensor([0.5, 1, 2, -1]))
            norm.bias.copy_(torch.tensor([0.1, 0, -0.2, 3]))
    net = runtime.prepare(nn.Sequential(norm)).train(train)
    made = torch.Generator().manual_seed(2)
    shape = (6, 4) if kind is nn.BatchNorm1d else (6, 4, 3, 2)
    found = []
    for _ in range(2):
        images = (100 + torch.randn(shape, generator=made, dtype=torch.float64)).to(dtype)
        images.requires_grad_()
        rows = net(own(runtime, images))
        (own(runtime, images.detach().float().sin()) * rows).sum().backward()
        found += [
            runtime.gather_detached(rows),
            runtime.gather_detached(own(runtime, images.grad)),
        ]
    return [*found, *bare(net).state_dict().values()]


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (nn.BatchNorm1d, {}),
        (nn.BatchNorm2d, {"eps": 0.1, "momentum": 0.3}),
        (nn.BatchNorm2d, {"momentum": None, "affine": False}),
    ],
)
def test_batch_norm_over_two_processes_is_that_of_one(kind, settings, train):
    expected = normalized(kind, torch.float64, settings, train)
    for found in together(normalized, kind, torch.float64, settings, train):
        assert_near(found, expected, 1e-9)


def test_batch_norm_over_two_processes_keeps_its_digits_far_from_zero():
    expected = normalized(nn.BatchNorm2d, torch.float64, {}, True)
    for found in together(normalized, nn.BatchNorm2d, torch.float32, {}, True):
        assert float((found[0] - expected[0]).abs().max()) < 1e-4  # images are 100 +- 1


def test_batch_norm_of_half_precision_images_stays_in_it():
    for found in together(normalized, nn.BatchNorm2d, torch.bfloat16, {"affine": False}, True):
        assert found[0].dtype == torch.bfloat16


def shapes_of_gathered(dtype):
    runtime = Runtime.start()
    rows = torch.full((2, 3), runtime.rank, dtype=dtype)
    return runtime.gather_detached(rows.T.contiguous().T)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8]
)
def test_gathered_rows_are_in_the_order_of_the_global_batch(dtype):
    for rows in together(shapes_of_gathered, dtype):
        assert rows.dtype == dtype
        assert rows.tolist() == [[0] * 3] * 2 + [[1] * 3] * 2


class Own(nn.BatchNorm2d):
    """A batch norm of somebody else."""


def facts():
    runtime = Runtime.start()
    first = runtime.prepare(nn.Linear(1, 1).requires_grad_(False))
    other = Runtime.start(precision="bfloat16")  # Accelerate itself refuses a second precision
    prepared = other.prepare(nn.Sequential(nn.Conv2d(3, 2, 1), Own(2), nn.BatchNorm2d(2)))
    runtime.barrier()
    return {
        "rank": (runtime.rank, runtime.n_processes, runtime.is_main, str(runtime.device)),
        "any": [runtime.any(runtime.rank == 1), runtime.any(False), runtime.any(True)],
        "mean": runtime.mean(torch.tensor([float(runtime.rank), 3.0])).tolist(),
        "frozen": type(first).__name__,
        "kinds": [type(part).__name__ for part in bare(prepared)],
        "dtype": prepared(torch.ones(2, 3, 4, 4)).dtype,
        "keys": list(bare(prepared).state_dict()),
    }


def test_processes_know_of_each_other():
    first, second = together(facts)
    assert first["rank"] == (0, 2, True, "cpu")
    assert second["rank"] == (1, 2, False, "cpu")
    for found in first, second:
        assert found["any"] == [True, False, True]
        assert found["mean"] == [0.5, 3.0]
        assert found["frozen"] == "Linear"  # nothing to average over processes
        assert found["kinds"] == ["Conv2d", "Own", "_SynchronizedNorm"]
        assert found["dtype"] == torch.float32
        alone = nn.Sequential(nn.Conv2d(3, 2, 1), Own(2), nn.BatchNorm2d(2))
        assert found["keys"] == list(alone.state_dict())


def random_numbers():
    runtime = Runtime.start()
    torch.manual_seed(10 + runtime.rank)
    state = runtime.state_dict()
    expected = torch.rand(3)
    torch.manual_seed(0)
    runtime.load_state_dict(state)
    return state["random"]["cpu"].shape[0], expected, torch.rand(3)


def test_each_process_gets_its_own_random_numbers_back():
    first, second = together(random_numbers)
    for n, expected, found in first, second:
        assert n == 2
        assert torch.equal(expected, found)
    assert not torch.equal(first[2], second[2])


def test_fewer_processes_go_on_with_the_random_numbers_of_the_first():
    runtime = Runtime.start()
    state = runtime.state_dict()
    expected = torch.rand(3)
    more = {"cpu": torch.cat([state["random"]["cpu"], torch.zeros_like(state["random"]["cpu"])])}
    runtime.load_state_dict({**state, "random": more})
    assert torch.equal(torch.rand(3), expected)


def failing():
    runtime = Runtime.start()
    if runtime.rank == 1:
        raise ValueError("only here")
    runtime.barrier()


def test_the_helper_of_these_tests_tells_of_a_failing_process():
    with pytest.raises(AssertionError, match="(?s)process 1: .*ValueError: only here"):
        together(failing)


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.seen = None

    def forward(self, rows):
        made = self.linear(rows)
        self.seen = made.dtype
        return {"pair": Pair(made, made > 0), "list": [made.double(), (made, 7)]}


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_prepared_network_works_in_its_precision_and_returns_float32(precision):
    net = Several()
    prepared = Runtime.start(precision=precision).prepare(net)
    found = prepared(torch.ones(2, 4))
    assert net.seen == getattr(torch, precision)
    assert found["pair"].first.dtype == torch.float32
    assert found["pair"].second.dtype == torch.bool
    assert found["list"][0].dtype == torch.float64
    assert found["list"][1][0].dtype == torch.float32
    assert found["list"][1][1] == 7
    assert bare(prepared) is net
    assert next(prepared.parameters()).dtype == torch.float32


def test_the_bare_network_is_found_below_a_compiled_one():
    net, compiled = nn.Linear(2, 2), nn.Module()
    compiled._orig_mod = net  # as torch.compile has it
    assert bare(compiled) is net
    assert bare(net) is net


def test_networks_are_prepared_in_place_and_in_channels_last():
    net = nn.Conv2d(3, 4, 3)
    weight = net.weight
    prepared = Runtime.start().prepare(net)
    assert prepared is net
    assert prepared.weight is weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_a_network_that_was_not_prepared_runs_in_the_precision_of_the_context():
    net = nn.Linear(2, 2)
    with Runtime.start(precision="bfloat16").autocast():
        assert net(torch.ones(1, 2)).dtype == torch.bfloat16
    with Runtime.start().autocast():
        assert net(torch.ones(1, 2)).dtype == torch.float32


def test_gradients_beyond_float16_leave_all_weights_and_halve_the_scale():
    runtime = Runtime.start(precision="float16")
    fine, bad = (nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizers = [torch.optim.SGD([weight], lr=0.1) for weight in (fine, bad)]
    before = runtime.state_dict()["scaler"]["scale"]
    runtime.backward(fine.sum() + bad.sum() * 1e38)
    runtime.clip_and_step(optimizers, 1.0)
    assert fine.tolist() == bad.tolist() == [1, 1, 1]
    assert fine.grad is None
    assert runtime.state_dict()["scaler"]["scale"] == before / 2
    runtime.backward(fine.sum() + bad.sum())
    runtime.clip_and_step(optimizers)
    assert fine.tolist() == bad.tolist() == pytest.approx([0.9] * 3)


def test_the_scale_of_float16_is_restored():
    runtime = Runtime.start(precision="float16")
    weight = nn.Parameter(torch.ones(1))
    runtime.backward(weight.sum() * 1e38)
    runtime.clip_and_step([torch.optim.SGD([weight], lr=0.1)])
    other = Runtime.start(precision="float16")
    other.load_state_dict(runtime.state_dict())
    assert other.state_dict()["scaler"] == runtime.state_dict()["scaler"]


def made_apart():
    """A network of other weights and buffers on each process, and the same after `prepare`."""
    runtime = Runtime.start()
    torch.manual_seed(runtime.rank)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    net.register_buffer("filters", torch.randn(4, 3, 2, 2))
    before = net.filters.clone()
    prepared = runtime.prepare(net)
    return before, bare(prepared).state_dict()


def test_weights_and_buffers_become_those_of_the_main_process():
    (first, ours), (other, theirs) = together(made_apart)
    assert not torch.equal(first, other)
    assert torch.equal(ours["filters"], first)
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def test_the_norm_is_that_of_all_gradients_together():
    runtime = Runtime.start()
    first, second = (nn.Parameter(torch.zeros(1)) for _ in range(2))
    runtime.backward(3 * first.sum() + 4 * second.sum())
    optimizers = [torch.optim.SGD([weight], lr=1.0) for weight in (first, second)]
    runtime.clip_and_step(optimizers, 1.0)
    assert [first.item(), second.item()] == pytest.approx([-0.6, -0.8], rel=1e-5)
    assert math.hypot(first.item(), second.item()) == pytest.approx(1, rel=1e-5)


def test_one_process_does_not_import_accelerate():
    program = (
        "import sys, torch; from labelsieve.loop.runtime import Runtime\n"
        "Runtime.start().prepare(torch.nn.Linear(1, 1))\n"
        "sys.exit('accelerate' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


LAUNCHED = """
import sys
from pathlib import Path
from labelsieve.loop.runtime import Runtime
import torch
runtime = Runtime.start()
rows = runtime.gather(torch.tensor([runtime.rank]))
net = runtime.prepare(torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3)))
net(torch.randn(4, 3)).square().mean().backward()
held = [net]
held.append(held)  # what holds on to gloo's threads is not freed by leaving its scope
del net, held
Path(sys.argv[1], f"{runtime.rank}.txt").write_text(f"{rows.tolist()} {runtime.device}")
"""


def test_processes_are_begun_by_torchrun(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(LAUNCHED)
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [sys.executable, "-m", *launcher, str(program), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr  # a process that aborts at its end ends the others
    assert "broadcast_buffers" not in done.stderr  # which new versions of torch warn of
    for rank in range(2):
        assert (tmp_path / f"{rank}.txt").read_text() == "[0, 1] cpu"


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("tpu9", "device is 'tpu9'; expected cpu, cuda, cuda:1 or mps"),
        ("xpu", "device is 'xpu'; torch finds none on this machine. Use cpu."),
    ],
)
def test_a_device_that_is_not_there_is_refused(device, message):
    with pytest.raises(ConfigError, match=message):
        Runtime.start(device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_cuda_without_a_gpu_is_refused():
    with pytest.raises(ConfigError, match="device is 'cuda'; torch finds none on this machine"):
        Runtime.start("cuda")


def test_a_precision_that_is_not_there_is_refused():
    with pytest.raises(
        ConfigError, match="precision is 'fp16'; expected one of fastest, float32, bfloat16"
    ):
        Runtime.start(precision="fp16")


@pytest.mark.parametrize(("able", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_half_precision_is_chosen_where_the_processor_multiplies_it(monkeypatch, able, expected):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: able, raising=False)
    assert fastest_precision("cpu") == expected
    assert fastest_precision("mps") == "float32"
