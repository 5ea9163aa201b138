"""What the tests start and drive: real services, real stores, a proxy that delays and cuts, and readers of answers."""
