"""Frames in, results out."""
