"""Models behind an API: endpoints, replies kept one by one, a budget, and what a text-only service can be asked."""
