"""Tables, pages and comparisons of result rows."""
