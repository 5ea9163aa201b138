"""The benchmark: `python -m benchmarks`. docs/performance.md says what is measured and how."""
