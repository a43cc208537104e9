"""What is learnt: the query model, a student of HT Demucs, the towers of clap-mini."""
