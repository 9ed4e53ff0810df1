"""Other systems, for comparison: started here when they are installed, three members each."""
