"""One report model, and the views of it."""
