"""What the command line and the test kit both show: durations, states, and the trace as a tree."""
