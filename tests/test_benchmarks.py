"""The benchmarks of pretraining run, at tiny sizes, and what they print can be true."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
PARTS = {
    "batches", "augmentation", "network forward", "loss", "network backward", "optimizer", "loop",
}  # fmt: skip


def figures_of(script: str, *words: str) -> tuple[dict, str]:
    """What a benchmark's last line says, and all that it printed."""
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stdout


def test_the_gpu_benchmark_runs_on_a_cpu_with_tiny_settings(tmp_path: Path) -> None:
    found, printed = figures_of(
        "gpu_pretrain.py", "--tiny", "--device", "cpu", "--json", str(tmp_path / "figures.json")
    )
    assert json.loads((tmp_path / "figures.json").read_text()) == found
    assert "| 500 epochs of CIFAR-10, minutes |" in printed
    assert (found["device"], found["compiled"]) == ("cpu", False)
    # 32 images in batches of 8, twice; the first four steps are not timed
    assert (found["batch"], found["timed_steps"]) == (8, 4)
    assert math.isclose(found["images_per_second"] * found["milliseconds_per_step"], 8000)
    # 1.111 GFLOP a view of 32 pixels in the network, a quarter at 16, and 1 MFLOP in the head
    flop = found["network_tflops"] * 1e12 * found["milliseconds_per_step"] / 1000
    assert flop / (8 * 2 * 3) == pytest.approx(1.111e9 / 4, rel=0.01)
    assert math.isclose(found["utilization"], found["network_tflops"] / found["matmul_tflops"])
    assert found["syncs_per_step"] == 0
    assert 0 <= found["waiting_share"] < 0.5 < found["issuing_share"] <= 1
    assert found["shares"].keys() == PARTS
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert found["shares"]["network backward"] > found["shares"]["batches"] > 0
    minutes = 500 * (50_000 // 8) * found["milliseconds_per_step"] / 60_000
    assert math.isclose(found["projected_minutes"], minutes)
    assert found["peak_memory_mb"] > 100


def test_the_gpu_benchmark_says_so_where_there_are_too_few_steps() -> None:
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "gpu_pretrain.py", "--tiny", "--device", "cpu",
         "--epochs", "1"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.strip() == "4 steps are too few: 4 are not timed."


def test_the_simclr_benchmark_measures_both_sides_or_says_why_it_does_not() -> None:
    found, printed = figures_of(
        "simclr_step.py", "--batch", "4", "--rounds", "2", "--small-batch", "32",
        "--small-rounds", "2",
    )  # fmt: skip
    network = found["resnet18"]
    assert network["batch"] == 4
    if find_spec("torchvision") is None:
        assert "torchvision is not installed. pip install torchvision" in printed
        assert not network.keys() & {"usual", "ratio", "ratios"}
    else:
        assert math.isclose(network["ratio"], network["ours"] / network["usual"])
        assert min(network["ratios"]) <= network["ratio"] <= max(network["ratios"])
    assert found["shares"].keys() >= {"narrow-resnet18", "dictionary-net"}
    for each in (network, *found["shares"].values()):
        assert each["parts"].keys() == PARTS
        milliseconds = sum(each["parts"].values())
        # medians of two steps are their means, and so add up
        assert each["ours"] == pytest.approx(1000 * each["batch"] / milliseconds)
        in_network = each["parts"]["network forward"] + each["parts"]["network backward"]
        assert each["network_share"] == pytest.approx(in_network / milliseconds, abs=0.05)
        assert min(each["parts"].values()) > 0
        assert each["parts"]["network backward"] > each["parts"]["network forward"] / 2
    # ResNet-18 has seven times the work of a narrow one, on 16/9 of the pixels
    assert found["shares"]["narrow-resnet18"]["ours"] > 3 * network["ours"]


def test_the_gpu_benchmark_of_scan_goes_on_where_it_was(tmp_path: Path) -> None:
    words = ("gpu_scan.py", "--tiny", "--device", "cpu", "--out", str(tmp_path))
    found, printed = figures_of(*words)
    assert list(found["accuracy"]) == ["k-means", "scan", "self-label"]
    assert all(set(parts) == {"train", "valid"} for parts in found["accuracy"].values())
    assert "| self-label |" in printed
    assert {"features", "scan", "self-label"} <= found["wall_seconds"].keys()
    assert math.isclose(found["minutes"] * 60, sum(found["wall_seconds"].values()))
    again, _ = figures_of(*words)  # it had finished: nothing is trained anew
    assert again["wall_seconds"] == found["wall_seconds"]
    assert again["accuracy"] == found["accuracy"]


def test_the_benchmark_of_heads_times_both_objectives(tmp_path: Path) -> None:
    found, _ = figures_of(
        "cluster_heads.py", "--rows", "600", "--features", "8", "--epochs", "1", "--heads", "2",
        "--json", str(tmp_path / "figures.json"),
    )  # fmt: skip
    assert json.loads((tmp_path / "figures.json").read_text()) == found
