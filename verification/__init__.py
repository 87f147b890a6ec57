"""The oracle side: does it equal torch's builtins, and would a check have noticed if not?"""
