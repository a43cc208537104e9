"""The command `unisep live`: separate while it is played, between devices or in a pipe."""
