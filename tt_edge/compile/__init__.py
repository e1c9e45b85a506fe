"""The host side: load, export, lower, convert, capture and verify. Needs torch."""
