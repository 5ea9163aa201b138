"""Shared parts of the tests: real services and stores, faulty proxies, and readers of errors."""
