"""Authentication and authorization of callers: API keys, JWTs, client certificates and scopes.

Only the modules that handle calls use gRPC, so that the command line can use the others.
"""
