"""How to ask: one file a kind of answer. A probe is the only thing that touches a model."""
