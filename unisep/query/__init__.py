"""What is asked for: queries, embeddings, and their vectors."""
