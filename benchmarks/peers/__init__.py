"""Networks of other libraries, trained by our ``train.json`` and scored like ours: ``python -m benchmarks.peers``."""
