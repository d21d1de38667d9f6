"""How fast it is: parts of a frame, a whole video, and others beside it in the same run."""
