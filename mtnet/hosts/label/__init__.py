"""MONAI Label: its own app for bundles, started offline."""
