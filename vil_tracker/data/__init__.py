"""Sequences, crops, readers, synthetic data and sampling."""
