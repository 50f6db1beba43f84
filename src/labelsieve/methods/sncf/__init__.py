"""SNCF: spectral noise clustering from contrastive features (Albert et al., ECCV 2022)."""
