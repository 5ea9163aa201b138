"""The benchmark (`python -m benchmarks`). docs/performance.md describes the measurements."""
