"""Tags: from many noisy tags and a few verified ones to clean tags and a tagger."""
