"""Load generators for tests and benchmarks."""
