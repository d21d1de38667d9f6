"""The network for other runtimes: a template graph and a frame graph, and a runner that the tracking session takes."""
