"""What the service is compared with: the User service that one writes in an afternoon with grpcio and redis-py."""
