"""What connects the core to other frameworks; each module needs the one that it is named after.

Nothing else of the core imports these modules, and they import the framework when they are used.
"""
