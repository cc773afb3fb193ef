"""The report of a study: one web page with figures, viewer and provenance, and figures for print."""
