"""The web page: drop a video, draw a box on the first frame, watch the tracker follow it."""
