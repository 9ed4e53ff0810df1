"""How long clients wait when replicas die, freeze and return: python -m bench.recovery."""
