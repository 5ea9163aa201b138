"""Load generators, which tests and benchmarks use."""
