# First of all: a soft reset has freed the heap, and a MAC that was left running goes on writing received frames into it. This holds it in reset.
from machine import mem32

mem32[0x3FF000D0] |= 0x80
