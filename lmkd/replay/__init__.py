"""Record what the heart saw, and run it again: the same verdicts, or those of another policy.

It knows the heart and its values, and nothing of how they come about: no kernel, no socket, no clock, and no file
but as bytes. What a recording says is judged as input from a stranger: it builds values of the heart's own types,
checked field by field, or it is refused with a RecordingError.

Where to look: `codec` turns values into trees and back, `packing` those into bytes; `recorder` keeps what happens,
compactly (`scans`), and `recording` is that as a file; `run` gives it to the heart once more; `whatif` gives it to the
heart under another policy, with `estimate` answering for the kernel and `past` for the old run; `comparison` says what
came out differently, and `caveats` what to know before that is believed.
"""
