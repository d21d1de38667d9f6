"""Benchmarks, metrics, the runner and the report."""
