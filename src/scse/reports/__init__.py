"""The report of a study: one web page with its figures, viewer and provenance, and what is drawn for print."""
