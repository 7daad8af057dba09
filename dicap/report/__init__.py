"""Results: the store of result files, and every table, plot and page that is made from them (`dicap report OUTPUT`).

from dicap.report.report import write_report
write_report("output", protocols=["few_shot"])    # refreshes every file, prints the tables of these protocols only
"""
