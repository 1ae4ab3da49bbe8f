import warnings

with warnings.catch_warnings():
    # ignite imports torch's functional optimisers, which torch itself scripts with what it calls deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    import mtnet.training  # noqa: F401
