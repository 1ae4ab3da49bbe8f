"""mtnet: one network, one pass, every answer that an imaging study holds."""

__version__ = "0.1.0"
