"""Commands that compare training runs, and report on them in a web page."""
