"""Long runs through small pools: nothing may grow, whoever lags behind."""
