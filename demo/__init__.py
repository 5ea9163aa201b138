"""The service at work: generated users in, the same users out. `make demo` runs it."""
