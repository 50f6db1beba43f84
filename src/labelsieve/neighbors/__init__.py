"""Structure: features become neighbors, graphs and groups. No torch.nn."""
