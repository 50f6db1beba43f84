"""Structure: features become neighbors, graphs and groups. There are no networks here."""
