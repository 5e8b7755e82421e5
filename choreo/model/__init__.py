"""What a choreography is: pure values and rules, without I/O, clock, randomness or redis."""
