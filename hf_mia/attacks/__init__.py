"""How to decide, one file an idea. An attack is a frozen dataclass; `fit` is the one method to write."""
