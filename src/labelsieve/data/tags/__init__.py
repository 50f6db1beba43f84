"""Tags of images in the forms that people keep them in, read into a TagSet and written back."""
