"""A finished run opened again and asked about new units."""
