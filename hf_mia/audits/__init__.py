"""An audit from its config to its run folder."""
