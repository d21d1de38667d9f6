"""The network: mLSTM cell, ViL backbone, temporal modulation, head, and their assembly."""
