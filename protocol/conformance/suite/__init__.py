"""The conformance suite's runner: scenarios as data, a scripted daemon and a real one, and drivers of clients."""
