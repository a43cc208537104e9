"""Separate while a recording is made: blocks in, results of the same length out, a fixed delay later."""
