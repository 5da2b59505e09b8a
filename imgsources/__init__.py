"""From an image reference to datasets that a zone can be cloned from."""
