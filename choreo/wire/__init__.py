"""How a choreography looks from outside: entries, key names, limits and streams.yaml."""
