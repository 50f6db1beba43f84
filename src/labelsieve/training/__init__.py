"""Training on an audit: a classifier, what it says of new images, and its files."""
