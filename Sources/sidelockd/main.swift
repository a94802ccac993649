print("sidelockd")
