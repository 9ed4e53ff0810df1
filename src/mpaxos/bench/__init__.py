"""How fast a cluster is: `mpaxos bench`.

The load comes from a native program (native/bench, installed beside the extension), so that what
is measured is the cluster and not Python. Here it is started, watched, and its numbers are made
into percentiles, tables and plots. docs/performance.md tells how to read them.
"""
