"""From a folder of noisily labelled images to verdicts, clean labels and robust models."""

__version__ = "0.1.0"
