"""Benchmarks: one file per figure, each run by `./dev bench NAME`. Nothing here is a timed test."""
