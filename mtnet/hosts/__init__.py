"""One file a host that runs mtnet."""
