"""The demo: topics in the documentation of the packages that are installed on this machine.

``corpus`` reads the text, ``settings`` and ``report`` decide what is shown, ``picture`` draws it,
``screen`` prints it, ``run`` joins them. Only the last three write anything.
"""
