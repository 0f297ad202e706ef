"""Being written; see git log for who."""
