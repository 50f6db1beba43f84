"""Clustering: images without labels, from rows or a network to clusters."""
