"""Retrieval: from noisily labeled images to an embedding in which like images lie close."""
