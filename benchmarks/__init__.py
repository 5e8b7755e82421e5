"""How fast choreo is, beside what else there is: ``python -m benchmarks``.

Everything runs on a server of its own, in processes of its own. Contestants take turns, and what is
reported are ratios of one round, so that a machine that is busy with other things slows both sides.
"""
