"""Tags cleaned by a few that people verified: Veit et al., CVPR 2017, and what is beyond it."""
