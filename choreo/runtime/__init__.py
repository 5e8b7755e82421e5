"""Running participants: reading deliveries, handling them, committing what comes of it."""
