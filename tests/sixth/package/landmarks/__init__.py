"""A system of its own with a kind of output that mtnet does not have: named points in an image."""
