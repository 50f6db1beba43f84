"""SCAN: classes from images without labels (Van Gansbeke et al., ECCV 2020)."""
