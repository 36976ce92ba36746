"""A host that exists in memory only: for trying the API, for scale, and for faults that no real host shows.

It passes the same contract tests as the real drivers and never stands in for them.
"""
