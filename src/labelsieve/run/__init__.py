"""A run's folder: made, locked, written atomically, timed and resumed."""

from labelsieve.run.about import flat, read_run
from labelsieve.run.folder import Beside, Run
from labelsieve.run.outputs import copy_run

__all__ = ["Beside", "Run", "copy_run", "flat", "read_run"]
