"""What a tagger learns after it learned the tags as they are: one module for each kind."""
