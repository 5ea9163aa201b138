"""Who calls: keys, tokens and certificates, the scopes that they have, and the scopes that methods require.

Nothing here imports gRPC, except where a call is passed in, so that the command line can use it too.
"""
