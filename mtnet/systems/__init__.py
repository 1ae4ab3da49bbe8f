"""One file a published system, readable beside its paper."""
