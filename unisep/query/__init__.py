"""Queries: what the caller asks for, parsed, and encoded to vectors."""
