"""What comes in: images on disk become an ImageSet and uint8 pixels."""
