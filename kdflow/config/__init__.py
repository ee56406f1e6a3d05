"""The parameters that steps share, each declared once: name, type, default, range and help.

The command line, MLproject, the tables of the documentation and the logged parameters follow from
these classes and from the ones that steps derive from them.
"""
