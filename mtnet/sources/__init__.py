"""Public data sets and a user's own folders, each turned into one manifest. No pixels are changed, none are stored."""

from mtnet.sources.manifest import Manifest, Sample, Source, joined, read_manifest, write_manifest

__all__ = ["Manifest", "Sample", "Source", "joined", "read_manifest", "write_manifest"]
