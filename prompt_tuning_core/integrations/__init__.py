"""Connections to other frameworks; each module has the name of the framework that it needs.

No other part of the core imports these modules.
"""
