"""MONAI Deploy: an application of mtnet's own, and what the SDK's bundle operator needs of a bundle."""
