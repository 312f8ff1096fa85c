"""The latency suite: switch_runtime against its peers and against the memory of the machine.

    switch-bench DIR                   # one model directory: phases, memory, share of the ceiling
    python -m switch_bench.suite       # the README's tables; --full: every cell
    python -m switch_bench.goals       # what this project has to reach, and whether it does
    python -m switch_bench.report      # write the tables and plots from the recorded rows

All but the first are for a checkout of the repository.
"""
