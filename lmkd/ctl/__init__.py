"""lmkctl: the command by which people and scripts ask and steer lmkd.

A client like any other: what it knows, it asked over the socket. It knows no policy, no kernel and nothing of the
daemon's inside, and it is ready for results that say less or more than it expects (SPEC Q-1).

Where to look: `arguments` is what can be asked; `commands` asks and prints; `standing`, `story` and `live` turn
answers into blocks of text, purely; `page` draws blocks; `result` and `words` are what those are made with.
"""
