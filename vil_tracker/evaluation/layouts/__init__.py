"""Readers of the data sets that are used for evaluation only."""
