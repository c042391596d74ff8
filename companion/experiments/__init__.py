"""Experiments too long for a chapter: each a command that adds rows to `companion.results`.

Chapters read the rows; the tests run a cheap one again.
"""
