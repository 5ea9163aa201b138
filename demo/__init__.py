"""The demo: loads generated users into the service, and reads the same users back. `make demo` runs it."""
