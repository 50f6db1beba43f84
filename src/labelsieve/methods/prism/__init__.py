"""PRISM: retrieval that survives wrong labels (Liu et al., CVPR 2021; extended by 2108.01431)."""
