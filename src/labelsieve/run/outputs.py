"""What a run leaves in its folder: removed by --overwrite, set aside till a new run is done."""

from __future__ import annotations

import shutil
from pathlib import Path

from labelsieve.errors import RunError
from labelsieve.files import cannot_write
from labelsieve.run.about import read_about

# What a run writes: --overwrite removes these and nothing else.
OUTPUTS = (
    "run.json", "log.jsonl", "findings.parquet", "findings.csv", "audit.parquet", "decided.jsonl",
    "predictions.parquet", "predictions.csv", "clusters.parquet",
    "clusters.csv", "prototypes.csv", "retrieved.parquet", "retrieved.csv", "embeddings.npy",
    "embeddings.json", "tags.parquet", "tags.csv", "labels.parquet", "labels.csv", "given.parquet",
    "given.images.parquet", "by_tag.csv", "to_verify.csv", "page.json", "counted.parquet",
    "cleaned", "cleaned.parquet", "cleaned.csv", "cleaned.json", "cleaned.txt", "cleaned.tsv",
    "test-embeddings.npy", "test-embeddings.json", "features.npy", "features.json", "report.html",
    "model.safetensors", "model.json", "joint.safetensors", "dictionary.safetensors", "pretext",
    "tensorboard", "checkpoint",
)  # fmt: skip
COSTLY = "pretext/model.json"  # a trained network, which --network takes: a late error leaves it
REPLACED = ".replaced"  # where the run that --overwrite replaces waits until the new one is done
DEMO_OUTPUTS = ("images", "truth.csv")  # of a demo run only: elsewhere they may be the user's


def is_half_begun(entry: Path) -> bool:
    """Whether a run that was killed at once left this: a lock, a part of a file, no results."""
    if entry.name == "checkpoint":
        return not any(entry.iterdir())
    return entry.name in {".lock", REPLACED} or entry.name.startswith(".partial-")


def set_aside(path: Path, job: str) -> None:
    """Move the outputs of a finished run out of the way; remove those of an unfinished one."""
    if read_about(path)["status"] != "done":
        remove_outputs(path, job)
        return
    shutil.rmtree(path / REPLACED, ignore_errors=True)
    (path / REPLACED).mkdir()
    for name in OUTPUTS + (DEMO_OUTPUTS if job == "demo" else ()):
        if (path / name).exists():
            (path / name).rename(path / REPLACED / name)


def put_back(path: Path) -> None:
    """Undo `set_aside`, if there is something."""
    if (path / REPLACED).is_dir():
        for entry in (path / REPLACED).iterdir():
            entry.rename(path / entry.name)
        (path / REPLACED).rmdir()


def remove_outputs(path: Path, job: str) -> None:
    """Remove what a run wrote, and nothing else."""
    for name in OUTPUTS + (DEMO_OUTPUTS if job == "demo" else ()):
        target = path / name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)


def not_empty(path: Path, present: list[str], *, is_run: bool) -> str:
    """What to say of a folder that holds something."""
    if is_run:
        return (
            f"{path}: holds a run already. Add --resume to go on with it, --overwrite to replace "
            "it, or choose another --out."
        )
    shown = ", ".join(name for name in present[:3])
    return (
        f"{path}: not empty (it holds {shown}). Choose another --out: a run wants its own folder."
    )


def copy_run(source: Path, folder: Path) -> None:
    """Copy what a finished run wrote into a new folder.

    Raises:
        RunError: the folder is not empty, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise RunError(f"{folder}: not empty. Choose another folder for the model.")
        for name in (*OUTPUTS[1:], OUTPUTS[0]):  # run.json last: what has it is whole
            written = source / name
            if written.is_dir():
                shutil.copytree(written, folder / name)
            elif written.exists():
                shutil.copyfile(written, folder / name)
    except OSError as error:
        raise cannot_write(folder, error) from error
