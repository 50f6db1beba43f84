"""The published systems. They never import each other."""
