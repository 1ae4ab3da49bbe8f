"""Measuring how right the answers are."""
