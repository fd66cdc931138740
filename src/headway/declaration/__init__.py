"""From `headway.toml` to a checked `System`: find it, read it, say everything that is wrong with it at once.

load ── sources    find and read the text            (files)
     ── translate  text's tables -> System, problems (pure)
     ── check      what the types cannot say         (pure)
     ── advise     what works but surprises          (pure)
     ── complete   what the user left out            (pure)
     ── paths      files and folders it names        (files)
changes            what `up` would change            (pure)
discover, starter  `headway init`                    (files | pure)
reference          docs/reference/declaration.md, generated
"""
