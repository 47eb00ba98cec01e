"""Hold an implementation of the protocol against SPEC.md, rule by rule, from outside.

    python -m lmkd_proto.conformance /run/lmkd/socket
    python -m lmkd_proto.conformance --client ./my-program --its-option

A server is asked over its socket, by clients that are in part wrong on purpose. A client is a program that registers
and answers notices: it is started with LMKD_SOCKET naming a server of ours, which is in part wrong on purpose. Each
rule that binds that side then *holds*, is *broken*, or was *not seen*: not everything shows from outside.

This is the one part of the package with sockets and processes; nothing else of it imports this. What is judged here
is written by hand, not by the codec, where the codec could not say it.
"""
