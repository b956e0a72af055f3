"""The RPCs, their validation, and errors as google.rpc.Status."""
