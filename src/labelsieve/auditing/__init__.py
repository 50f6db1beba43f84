"""The audit: its stages in order, what it would cost, and findings of all images."""
