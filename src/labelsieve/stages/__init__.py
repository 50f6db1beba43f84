"""What the jobs share: what they were given, and the way from images to rows and neighbors."""
