"""The User service: gRPC in front, Redis or Valkey behind. docs/architecture.md shows the layers."""
