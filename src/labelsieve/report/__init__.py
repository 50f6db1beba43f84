"""What goes out: scores, tables and the report page."""
