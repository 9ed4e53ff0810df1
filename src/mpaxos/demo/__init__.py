"""`make demo`: a cluster under real input that loses its processes again and again.

records reads the input, load drives it through clients, scenario kills and compares, report shows.
"""
