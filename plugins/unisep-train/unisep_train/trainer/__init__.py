"""The loop that every task goes through."""
