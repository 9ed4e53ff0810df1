"""Fuzzing: whatever the bytes are, they parse, or it is an error of the type that says so.

targets.py     a function per format: bytes in, an exception of any other type out
seeds.py       inputs to start from, made by the real encoders
test_*.py      hypothesis, and the seeds replayed: part of `make test`
coverage.py    the same functions under atheris; the native targets are in native/fuzz
"""
