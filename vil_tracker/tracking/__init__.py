"""The tracking session, and everything between a source of frames and the files that a run leaves behind."""
