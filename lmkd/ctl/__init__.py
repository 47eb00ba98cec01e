"""lmkctl: the command by which people and scripts ask and steer lmkd.

A client like any other: what it knows, it asked over the socket, and it is ready for results that say less or more
than it expects (SPEC Q-1). It knows nothing of the daemon's inside, and no policy and no kernel; but for the commands
that ask no daemon, `rules check`, `rules test` and `replay`, which decide as a daemon would and are imported by
nothing else.

Where to look: `arguments` is what can be asked; `commands` asks and prints; `standing`, `rulebook`, `story`, `kills`,
`explaining`, `recordings` and `live` turn answers into blocks of text, purely; `page` draws blocks; `given`, `result`
and `words` are what those are made with. `offline` leads to `rules` and `replay`.
"""
