"""Representation: images become one unit-norm row each."""
