"""The trio shell: everything that waits, talks or acts.

The only place with nurseries, timers, sockets and logging. It decides nothing: what it does, it does because
lmkd.policy returned an action, and what it learns it hands in as an event. `daemon` puts the parts together.
"""
