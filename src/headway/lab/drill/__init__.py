"""The overload drill: what does this app do when it is too much? Measured on the user's own app, told on one page.

`search`, `recovery`, `usl`, `verdict`, `table` and `paper` are pure; `run`, `replicas` and `cores` act.
"""
