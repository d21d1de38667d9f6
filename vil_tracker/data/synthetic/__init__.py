"""Training material that is composed from still photos, or painted from a seed."""
