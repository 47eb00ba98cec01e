"""A fake lmkd, for the tests of programs that are told of memory pressure, and for our own.

It speaks the protocol by the server's side of lmkd_proto, on a real Unix socket, and knows nothing of memory: what is
said, and when, is for a test to say. `FakeLmkd` answers by itself what a program asks of it, and is what the fixture
`lmkd` gives; `ScriptedDaemon` says what a script has written and nothing else, down to single bytes. No program
imports any of this unless it is under test.
"""

from lmkd_client.testing.conversation import FakeApp
from lmkd_client.testing.fake_lmkd import Answered, FakeLmkd, NoAnswer
from lmkd_client.testing.peer import Peer
from lmkd_client.testing.scripted import ScriptedDaemon

__all__ = ["Answered", "FakeApp", "FakeLmkd", "NoAnswer", "Peer", "ScriptedDaemon"]
