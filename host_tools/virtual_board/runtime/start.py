# The first file that a virtual board runs; its globals become the REPL's, so it leaves no name in them.
__import__("_board").main(globals())
