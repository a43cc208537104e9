"""The signal path: one engine for an array, a file and a stream."""
