"""Results: every table, plot and page that is made from result files (`dicap report OUTPUT`, report.write_report)."""
