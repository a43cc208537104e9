"""Train the models of unisep: the query model, its students, and the towers of clap-mini."""
