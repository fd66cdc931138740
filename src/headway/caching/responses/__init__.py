"""Whole responses that are kept: which, under which key, for how long, and how they are given again. Pure.

`route` is what is declared of a path, `asked` what a request asks for, `ruling` whether an answer may be kept, `answer`
one that is. The layers around the app that use them are in `caching/client`.
"""
