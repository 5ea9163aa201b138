"""Commands that need only the client."""
