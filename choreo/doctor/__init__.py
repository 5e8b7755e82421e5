"""What may be wrong with a server and a namespace on it, and what to do about it."""
