"""The baseline of the benchmark: a simple User service with grpcio and redis-py, one hash per user."""
