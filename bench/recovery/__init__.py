"""What clients and replicas notice of crashes: `python -m bench.recovery`."""
